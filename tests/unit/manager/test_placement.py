"""Order and placement: pure, deterministic, never too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import NeverFits
from backendai_jupyter.manager.scheduler.placement import (
    Candidate,
    Placed,
    Waiting,
    check_can_ever_fit,
    disperse,
    order,
    place,
)
from tests.records import make_session

GIB = 1024**3
BOTH = {"local": "1", "nfs": "2"}  # vfolder hosts and the ids in their markers


def candidate(
    name: str,
    free_gib: int,
    *,
    images: tuple[str, ...] = ("python",),
    markers: Mapping[str, str] = MappingProxyType({}),
) -> Candidate:
    """``markers`` are the vfolder hosts that the agent has mounted."""
    capacity = Slots({"cpu": 8, "mem": 8 * GIB})
    free = Slots({"cpu": 8, "mem": free_gib * GIB})
    return Candidate(name, capacity, free, frozenset(images), markers)


def on_host(host: str) -> Mount:
    return Mount(source="/v", target="/home/work/data", vfolder_id="1", vfolder_host=host)


def gib(amount: int) -> Slots:
    return Slots({"cpu": 1, "mem": amount * GIB})


@pytest.mark.parametrize(
    ("free_gib", "asked_gib", "chosen"),
    [
        pytest.param({"a": 7, "b": 2}, 1, "a", id="emptiest that fits"),
        pytest.param({"a": 7, "b": 2}, 9, None, id="nobody fits"),
        pytest.param({"b": 5, "a": 5}, 1, "a", id="tie breaks by id"),
    ],
)
def test_disperse(free_gib: dict[str, int], asked_gib: int, chosen: str | None) -> None:
    picked = disperse([candidate(n, g) for n, g in free_gib.items()], gib(asked_gib), "python")
    assert (picked.agent_id if picked else None) == chosen


def test_an_agent_without_the_image_is_passed_over() -> None:
    picked = disperse([candidate("a", 8, images=("r",)), candidate("b", 2)], gib(1), "python")
    assert picked is not None
    assert picked.agent_id == "b"


def test_an_agent_that_has_the_image_comes_before_an_emptier_one_that_can_fetch_it() -> None:
    fetching = replace(candidate("a", 8, images=()), pullable=frozenset({"python"}))
    having = candidate("b", 2)
    picked = [
        disperse([fetching, having], gib(asked), "python") or pytest.fail("nobody")
        for asked in (1, 4)
    ]
    assert [one.agent_id for one in picked] == ["b", "a"]


def test_a_drained_agent_gets_nothing_and_is_named_as_the_reason() -> None:
    drained = replace(candidate("a", 8), is_drained=True)
    (placed,) = place([make_session("s")], [drained, candidate("b", 4)], BOTH)
    assert isinstance(placed, Placed)
    assert set(placed.agents.values()) == {"b"}
    (waiting,) = place([make_session("s")], [drained], BOTH)
    assert isinstance(waiting, Waiting)
    assert waiting.reason == (
        "Waiting for an agent: those that are alive are drained, and start nothing new."
    )


def test_priority_goes_before_age_and_age_before_id() -> None:
    late_but_urgent = make_session("c", priority=20, created_at=3)
    queue = order(
        [make_session("b", created_at=2), make_session("a", created_at=2), late_but_urgent]
    )
    assert [s.id for s in queue] == ["c", "a", "b"]


def test_what_does_not_fit_waits_with_a_reason_and_lets_smaller_ones_pass() -> None:
    big, small = make_session("big", slots=gib(6)), make_session("small", slots=gib(1))
    waiting, placed = place([big, small], [candidate("a", 4)], {})
    assert isinstance(waiting, Waiting)
    assert "mem 6 GiB was asked for and 4 GiB is free on agent a" in waiting.reason
    assert isinstance(placed, Placed)
    assert placed.agents == {"small": "a"}


def test_waiting_for_an_image_says_so() -> None:
    (waiting,) = place([make_session("x", image="r")], [candidate("a", 4)], {})
    assert isinstance(waiting, Waiting)
    assert "image 'r'" in waiting.reason


def test_a_session_goes_where_the_hosts_of_its_folders_are_mounted() -> None:
    session = make_session("s", mounts=(on_host("nfs"), on_host("local")))
    agents = [candidate("a", 8, markers={"local": "1"}), candidate("b", 2, markers=BOTH)]
    (placed,) = place([session], agents, BOTH)
    assert isinstance(placed, Placed)
    assert placed.agents == {"s": "b"}


@pytest.mark.parametrize(
    ("mounted", "reason"),
    [
        pytest.param({}, "has the vfolder host 'nfs' mounted", id="not mounted"),
        pytest.param({"nfs": "other"}, "its marker file differs) on a.", id="another disk"),
    ],
)
def test_an_agent_without_the_host_gets_only_sessions_that_do_not_need_it(
    mounted: dict[str, str], reason: str
) -> None:
    needing, other = make_session("n", mounts=(on_host("nfs"),)), make_session("o")
    waiting, placed = place([needing, other], [candidate("a", 8, markers=mounted)], BOTH)
    assert isinstance(waiting, Waiting)
    assert reason in waiting.reason
    assert isinstance(placed, Placed)
    assert placed.agents == {"o": "a"}


def test_a_host_that_neither_manager_nor_agent_has_is_not_the_same_on_both() -> None:
    (waiting,) = place([make_session(mounts=(on_host("nfs"),))], [candidate("a", 8)], {})
    assert isinstance(waiting, Waiting)
    assert "this server does not have it mounted" in waiting.reason


def test_a_directory_that_is_no_folder_needs_no_host() -> None:
    working_directory = Mount(source="/somewhere", target="/home/work/here")
    (placed,) = place([make_session(mounts=(working_directory,))], [candidate("a", 8)], {})
    assert isinstance(placed, Placed)


def test_without_agents_a_session_waits_for_one() -> None:
    (waiting,) = place([make_session()], [], {})
    assert isinstance(waiting, Waiting)
    assert waiting.reason == "Waiting for an agent: none is alive."


def test_what_can_never_fit_is_refused_by_slot() -> None:
    """F17: a slot that no agent has is refused by its name."""
    with pytest.raises(NeverFits) as caught:
        check_can_ever_fit([candidate("a", 0)], Slots({"cpu": 64, "mem": GIB}))
    assert caught.value.slot == "cpu"
    with pytest.raises(NeverFits) as caught:
        check_can_ever_fit([candidate("a", 0)], Slots({"cuda.device": 1}))
    assert caught.value.slot == "cuda.device"
    check_can_ever_fit([candidate("a", 0)], gib(8))
    check_can_ever_fit([], gib(1000))


sessions = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100)), min_size=1, max_size=30
)


@given(sessions, st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_placement_never_overcommits_and_is_reproducible(
    asked: list[tuple[int, int, int]], free: list[int]
) -> None:
    queue: list[ComputeSession] = order(
        [
            make_session(f"s{i:03}", slots=Slots({"cpu": cpu, "mem": mem * GIB}), priority=priority)
            for i, (cpu, mem, priority) in enumerate(asked)
        ]
    )
    candidates = [candidate(f"a{i}", g) for i, g in enumerate(free)]
    decisions = list(place(queue, candidates, {}))
    assert decisions == list(place(queue, candidates, {}))
    assert [d.session.id for d in decisions] == [s.id for s in queue]
    for agent in candidates:
        used = Slots()
        for decision in decisions:
            if isinstance(decision, Placed) and agent.agent_id in decision.agents.values():
                used = used + decision.session.main.slots
        assert used.fits_in(agent.free)
    assert all(Decimal(0) <= c.free["mem"] for c in candidates)
