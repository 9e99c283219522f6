"""Who is tried, and what those that wait are told."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from backendai_jupyter.domain.groups import GroupPolicy, HeadOfLine
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.manager.scheduler.snapshot import Placed, Why
from tests.unit.manager.scheduler.samples import (
    GIB,
    agent_of,
    candidate,
    decided,
    gib,
    session,
    waiting,
)

SKIP_AFTER_2 = GroupPolicy(head_of_line=HeadOfLine.SKIP, skip_after=2)
BIG, SMALL = session("big", gib(6)), session("small", gib(1), created_at=1)


def test_under_the_strict_policy_nothing_passes_what_waits_for_room() -> None:
    """F37: a large session is not kept waiting by small ones behind it."""
    found = decided([SMALL, BIG], [candidate("a", 4)])
    big, small = waiting(found["big"]), waiting(found["small"])
    assert (big.why, big.position, big.shortfall) == (Why.ROOM, 1, Slots({"mem": 2 * GIB}))
    assert big.reason == (
        "Waiting for room: mem 6 GiB was asked for and 4 GiB is free on agent a. It is number 1 "
        "in the queue of resource group 'default' and starts when other kernels end."
    )
    assert (small.why, small.position, small.shortfall) == (Why.TURN, 2, Slots())
    assert small.reason == (
        "Waiting for its turn: it is number 2 in the queue of resource group 'default', and one "
        "before it waits for room."
    )


@pytest.mark.parametrize(("attempts", "passes"), [(0, False), (1, False), (2, True), (9, True)])
def test_under_the_skip_policy_others_pass_after_so_many_attempts(
    attempts: int, passes: bool
) -> None:
    """F37, F41: how often a session is tried before others pass is a setting, and is honoured."""
    found = decided(
        [BIG, SMALL], [candidate("a", 4)], policy=SKIP_AFTER_2, attempts={"big": attempts}
    )
    assert waiting(found["big"]).why is Why.ROOM
    assert isinstance(found["small"], Placed) is passes


def test_what_was_passed_is_still_tried_first() -> None:
    found = decided([BIG, SMALL], [candidate("a", 6)], policy=SKIP_AFTER_2, attempts={"big": 99})
    assert agent_of(found["big"]) == "a"
    assert waiting(found["small"]).why is Why.ROOM


def test_one_group_does_not_hold_up_another() -> None:
    elsewhere = replace(SMALL, group="other")
    found = decided([BIG, elsewhere], [candidate("a", 4), candidate("b", group="other")])
    assert waiting(found["big"]).why is Why.ROOM
    assert agent_of(found["small"]) == "b"


@pytest.mark.parametrize(
    ("hopeless", "reason"),
    [
        pytest.param(session("x", image="r"), "image 'r': none has it", id="image"),
        pytest.param(session("x", hosts=("nfs",)), "vfolder host 'nfs'", id="vfolder host"),
        pytest.param(session("x", gib(9)), "the largest that starts", id="larger than any agent"),
        pytest.param(session("x", *[gib(5)] * 3), "more agents", id="more kernels than agents"),
    ],
)
def test_what_no_agent_could_run_holds_up_nobody(hopeless: WaitingSession, reason: str) -> None:
    urgent = replace(hopeless, priority=100)
    found = decided([urgent, SMALL], [candidate("a"), candidate("b")])
    assert (waiting(found["x"]).why, waiting(found["x"]).position) == (Why.AGENT, 1)
    assert reason in waiting(found["x"]).reason
    assert isinstance(found["small"], Placed)


def test_a_session_waits_for_its_time_and_holds_up_nobody_meanwhile() -> None:
    later, due = replace(BIG, not_before=100.5), replace(BIG, id="due", not_before=100.0)
    found = decided([later, SMALL], [candidate("a", 6)])
    assert (waiting(found["big"]).why, waiting(found["big"]).position) == (Why.TIME, None)
    assert waiting(found["big"]).reason == (
        "Waiting for its time: it is not to start before 1970-01-01 00:01:40 UTC."
    )
    assert agent_of(found["small"]) == "a"
    assert agent_of(decided([due], [candidate("a", 6)])["due"]) == "a"


def test_places_are_counted_among_those_that_wait_in_one_group() -> None:
    queue = [session(f"s{i:02}", gib(4), created_at=i) for i in range(14)]
    found = decided([*queue, replace(BIG, group="other")], [candidate("a", 8)])
    assert [waiting(found[s.id]).position for s in queue[2:]] == list(range(1, 13))
    assert waiting(found["big"]).position == 1
    assert "is number 10 in" in waiting(found["s11"]).reason
    assert "is behind 10 others or more in" in waiting(found["s12"]).reason


def test_the_shortfall_is_what_the_closest_agent_lacks() -> None:
    agents = [candidate("a", 1), candidate("b", 3), candidate("c", 8, images=("r",))]
    lacking = waiting(decided([session("s", gib(5))], agents)["s"])
    assert lacking.shortfall == Slots({"mem": 2 * GIB})
    assert "on agent b" in lacking.reason


def test_what_a_session_was_tried_with_is_not_missing_for_the_next_one() -> None:
    queue = [session("pair", gib(5), gib(5)), session("one", gib(6), created_at=1)]
    policy = replace(SKIP_AFTER_2, skip_after=0)
    found = decided(queue, [candidate("a", 5), candidate("b", 4)], policy=policy)
    assert "4 GiB is free on agent b" in waiting(found["pair"]).reason
    assert "5 GiB is free on agent a" in waiting(found["one"]).reason


class CannotBeRead(WaitingSession):
    """A session whose kernels raise when they are looked at."""

    def __getattribute__(self, name: str) -> object:
        if name == "kernels":
            raise OSError("damaged")
        return super().__getattribute__(name)


def test_one_bad_session_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """F38: what the scheduler fails at is said and passed over."""
    damaged = CannotBeRead("damaged", "u", "default", 90, 0.0, ())
    empty = replace(SMALL, id="empty", kernels=())
    negative = session("negative")
    (kernel,) = negative.kernels
    negative = replace(negative, kernels=(replace(kernel, wanted=(("cpu", -1000),)),))
    with caplog.at_level(logging.CRITICAL):
        found = decided([damaged, empty, negative, SMALL], [candidate("a")])
    assert isinstance(found["small"], Placed)
    for name in ("damaged", "empty", "negative"):
        assert waiting(found[name]).why is Why.DEFECT
        assert "goes on with others" in waiting(found[name]).reason
