"""Sessions of several kernels: which agents they may be on together, and what they are told."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport, ClusterMode, Swarm
from backendai_jupyter.manager.scheduler.scheduler import managed_swarms
from backendai_jupyter.manager.scheduler.snapshot import Placed, Why
from tests.unit.manager.scheduler.samples import GIB, candidate, decided, gib, session, waiting

ONE, MANY = ClusterMode.SINGLE_NODE, ClusterMode.MULTI_NODE


def test_on_one_node_all_kernels_are_placed_together() -> None:
    agents = [candidate("a", 5), candidate("b", 6)]
    found = decided([session("s", gib(3), gib(3), mode=ONE)], agents)
    assert isinstance(found["s"], Placed)
    assert found["s"].agents == {"s": "b", "s-1": "b"}


def test_on_one_node_what_is_lacking_is_said_of_all_together() -> None:
    lacking = waiting(decided([session("s", gib(3), gib(3), mode=ONE)], [candidate("a", 5)])["s"])
    assert (lacking.why, lacking.shortfall) == (Why.ROOM, Slots({"mem": GIB}))
    assert "room for its 2 kernels together: mem 6 GiB was asked for" in lacking.reason


def test_on_several_nodes_all_kernels_are_in_one_swarm() -> None:
    agents = [
        candidate("a", 4, capacity_gib=4, swarm="w"),
        candidate("b", 4, capacity_gib=4, swarm="x"),
        candidate("c", 4, capacity_gib=4, swarm="x"),
        candidate("d", 8, swarm=""),
    ]
    found = decided([session("s", gib(4), gib(4), mode=MANY)], agents)
    assert isinstance(found["s"], Placed)
    assert set(found["s"].agents.values()) == {"b", "c"}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        pytest.param(ONE, "an agent that can give kernels a network of their own", id="one node"),
        pytest.param(MANY, "agents of one Docker Swarm", id="several nodes"),
    ],
)
def test_without_a_network_a_session_waits_for_an_agent(mode: ClusterMode, reason: str) -> None:
    several, alone = session("s", gib(1), gib(1), mode=mode), session("t", gib(1))
    found = decided([several, alone], [candidate("a", modes=(), swarm="")])
    assert waiting(found["s"]).why is Why.AGENT
    assert reason in waiting(found["s"]).reason
    assert isinstance(found["t"], Placed)


def test_a_swarm_that_no_agent_manages_gives_no_network() -> None:
    assert managed_swarms([report("a", "w", manages=False), report("b", "x", manages=True)]) == {
        "x"
    }


def test_where_a_kernel_has_failed_its_whole_session_goes_last() -> None:
    agents = [candidate("a", 8), candidate("b", 8)]
    wanted = session("s", gib(1), gib(1), mode=ONE)
    found = decided([wanted], agents, failed_on={"s": frozenset({"a"})})
    assert isinstance(found["s"], Placed)
    assert set(found["s"].agents.values()) == {"b"}


def report(agent_id: str, swarm: str, *, manages: bool) -> AgentReport:
    return AgentReport(
        agent_id=agent_id,
        revision=1,
        version="1",
        capacity=Slots(),
        swarm=Swarm(id=swarm, manages=manages),
    )
