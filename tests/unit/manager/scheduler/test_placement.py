"""Which agent."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.groups import GroupPolicy, HeadOfLine, Order, Strategy
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.errors import NeverFits
from backendai_jupyter.manager.scheduler.explain import check_can_ever_fit
from backendai_jupyter.manager.scheduler.snapshot import Placed, Why
from tests.unit.manager.scheduler.samples import (
    BOTH,
    GIB,
    agent_of,
    candidate,
    decided,
    gib,
    session,
    waiting,
)

CONCENTRATED = GroupPolicy(strategy=Strategy.CONCENTRATED)
ROUND_ROBIN = GroupPolicy(strategy=Strategy.ROUND_ROBIN)


@pytest.mark.parametrize(
    ("strategy", "free_gib", "asked_gib", "chosen"),
    [
        pytest.param("dispersed", {"a": 7, "b": 2}, 1, "a", id="the emptiest"),
        pytest.param("dispersed", {"b": 5, "a": 5}, 1, "a", id="a tie breaks by id"),
        pytest.param("concentrated", {"a": 7, "b": 2}, 1, "b", id="the fullest"),
        pytest.param("concentrated", {"a": 7, "b": 2}, 3, "a", id="the fullest that fits"),
        pytest.param("concentrated", {"b": 5, "a": 5}, 1, "a", id="a tie of full ones"),
    ],
)
def test_a_strategy_takes(
    strategy: str, free_gib: dict[str, int], asked_gib: int, chosen: str
) -> None:
    agents = [candidate(n, g) for n, g in free_gib.items()]
    policy = GroupPolicy(strategy=Strategy(strategy))
    assert agent_of(decided([session("s", gib(asked_gib))], agents, policy=policy)["s"]) == chosen


def test_what_a_session_takes_counts_for_those_behind_it() -> None:
    queue = [session(f"s{i}", gib(3)) for i in range(4)]
    spread = decided(queue, [candidate("a"), candidate("b")])
    packed = decided(queue, [candidate("a"), candidate("b")], policy=CONCENTRATED)
    assert [agent_of(d) for d in spread.values()] == ["a", "b", "a", "b"]
    assert [agent_of(d) for d in packed.values()] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [({}, ["a", "b", "c", "a"]), ({"default": "b"}, ["c", "a", "b", "c"])],
)
def test_round_robin_goes_on_after_the_last_turn(last: dict[str, str], expected: list[str]) -> None:
    agents = [candidate(name, 8) for name in "cab"]
    queue = [session(f"s{i}", gib(1)) for i in range(4)]
    turns = decided(queue, agents, policy=ROUND_ROBIN, last_agents=last)
    assert [agent_of(d) for d in turns.values()] == expected


def test_a_session_that_was_not_placed_has_had_no_turn() -> None:
    policy = GroupPolicy(Order.FIFO, Strategy.ROUND_ROBIN, HeadOfLine.SKIP, 0)
    agents = [candidate("a"), candidate("b", 5), candidate("c", 5)]
    queue = [session("large", gib(8), gib(7)), session("small", created_at=1)]
    assert agent_of(decided(queue, agents, policy=policy)["small"]) == "a"


@pytest.mark.parametrize("strategy", Strategy)
def test_work_without_accelerators_avoids_the_nodes_that_have_some(strategy: Strategy) -> None:
    agents = [candidate("a", 8, devices=2), candidate("b", 2)]
    queue = [session("cpu", gib(1)), session("gpu", gib(1, device=1)), session("more", gib(2))]
    found = decided(queue, agents, policy=GroupPolicy(strategy=strategy))
    assert {name: agent_of(d) for name, d in found.items()} == {
        "cpu": "b",
        "gpu": "a",
        "more": "a",  # rather than waiting
    }


def test_an_agent_that_has_the_image_comes_before_one_that_would_fetch_it() -> None:
    fetching = candidate("a", 8, images=(), pullable=("python",))
    having = candidate("b", 2)
    queue = [session("s1", gib(2)), session("s2", gib(2))]
    found = decided(queue, [fetching, having])
    assert [agent_of(found[name]) for name in ("s1", "s2")] == ["b", "a"]


def test_an_agent_without_the_image_is_passed_over() -> None:
    agents = [candidate("a", 8, images=("r",)), candidate("b", 2)]
    assert agent_of(decided([session()], agents)["s"]) == "b"


def test_an_agent_where_the_session_failed_comes_last_and_is_used_if_all_did() -> None:
    agents = [candidate("a", 8), candidate("b", 2)]
    some = decided([session()], agents, failed_on={"s": frozenset({"a"})})
    every = decided([session()], agents, failed_on={"s": frozenset({"a", "b"})})
    assert (agent_of(some["s"]), agent_of(every["s"])) == ("b", "a")


def test_a_drained_agent_gets_nothing_and_is_named_as_the_reason() -> None:
    drained = candidate("a", is_drained=True)
    assert agent_of(decided([session()], [drained, candidate("b", 4)])["s"]) == "b"
    alone = waiting(decided([session()], [drained])["s"])
    assert (alone.why, alone.reason) == (
        Why.AGENT,
        "Waiting for an agent: those that are alive are drained, and start nothing new.",
    )


def test_an_agent_of_another_group_gets_nothing() -> None:
    found = decided([session(group="gpu"), session("t")], [candidate("a", group="gpu")])
    assert agent_of(found["s"]) == "a"
    assert waiting(found["t"]).reason == (
        "Waiting for an agent: none of resource group 'default' is alive."
    )


def test_a_session_goes_where_the_hosts_of_its_folders_are_mounted() -> None:
    agents = [candidate("a", 8, markers={"local": "1"}), candidate("b", 2, markers=BOTH)]
    needing = session(hosts=("nfs", "local"))
    assert agent_of(decided([needing], agents, markers=BOTH)["s"]) == "b"


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
    queue = [session("n", hosts=("nfs",)), session("o")]
    found = decided(queue, [candidate("a", markers=mounted)], markers=BOTH)
    assert reason in waiting(found["n"]).reason
    assert agent_of(found["o"]) == "a"


def test_a_host_that_neither_manager_nor_agent_has_is_not_the_same_on_both() -> None:
    alone = waiting(decided([session(hosts=("nfs",))], [candidate("a")])["s"])
    assert "this server does not have it mounted" in alone.reason


def test_kernels_of_a_session_are_placed_all_or_none_largest_first() -> None:
    """F33: what a session that does not fit was tried with is there for the next one."""
    agents = [candidate("a", 4, capacity_gib=4), candidate("b", 6)]
    fits = session("fits", gib(3), gib(6))
    assert decided([fits], agents)["fits"] == Placed(fits, {"fits": "a", "fits-1": "b"})
    policy = GroupPolicy.read({"head_of_line": "skip", "skip_after": 0}, field="x")
    too_much = session("large", gib(6), gib(5), priority=50)
    found = decided([too_much, fits], agents, policy=policy)
    assert found["fits"] == Placed(fits, {"fits": "a", "fits-1": "b"})
    assert "cannot hold all its kernels" in waiting(found["large"]).reason


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
