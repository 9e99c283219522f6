"""Networks of sessions of several kernels begin with the first here and end with the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import (
    AgentReport,
    Assignment,
    ClusterMode,
    Membership,
    NetworkAssignment,
    NetworkReport,
    Phase,
    Swarm,
)
from backendai_jupyter.errors import RuntimeFailed
from tests.fakes import (
    NetworksInMemory,
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
    answer_at_once,
)
from tests.helpers import eventually
from tests.siblings import members
from tests.unit.agent.one_node import OneNode
from tests.unit.agent.test_devices import until

Start = Callable[..., Awaitable[OneNode]]
SWARM = Swarm(id="swarm", manages=True)


class NetworksThatAreFull(NetworksInMemory):
    async def open(self, session_id: str, membership: Membership) -> None:
        raise RuntimeFailed("no addresses left")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start agents of one node, one after the other, as after ``kill -9`` of the one before."""
    nodes: list[OneNode] = []

    async def make(runtime: RuntimeInMemory | None = None) -> OneNode:
        former = nodes[-1] if nodes else None
        if former is not None:
            await former.supervisor.close()
        cluster = former.cluster if former is not None else None
        runtime = runtime or (former.runtime if former is not None else RuntimeInMemory())
        node = OneNode(tmp_path, runtime, answer_at_once, cluster)
        nodes.append(node)
        await node.agent.start()
        return node

    yield make
    for node in nodes:
        await node.supervisor.close()


async def assign(node: OneNode, host: str, mode: ClusterMode = ClusterMode.SINGLE_NODE) -> None:
    assignment = Assignment(
        kernel_id=host,
        session_id="s",
        owner="u",
        generation=1,
        image="python",
        argv=("python", "{connection_file}"),
        env={},
        limits=Slots({}),
        hostname=host,
        membership=members(2, mode)[host],
    )
    await node.cluster.put(keys.assignment("a", host), assignment.model_dump_json())


async def unassign(node: OneNode, host: str) -> None:
    await node.cluster.delete(keys.assignment("a", host))

    async def gone() -> bool:
        return host not in {kernel.kernel_id for kernel in (await node.report()).kernels}

    await eventually(gone)


async def assign_overlay(node: OneNode) -> None:
    text = NetworkAssignment(session_id="s").model_dump_json()
    await node.cluster.put(keys.network("a", "s"), text)


async def reported(node: OneNode, *networks: NetworkReport) -> AgentReport:
    async def found() -> AgentReport | None:
        report = await node.report()
        return report if report.networks == networks else None

    report = await eventually(found)
    assert report is not None
    return report


async def test_a_network_is_there_until_the_last_kernel_of_its_session_has_gone(
    start: Start,
) -> None:
    node = await start()
    for host in members(2):
        await assign(node, host)
    for host in members(2):
        await until(node, host, Phase.RUNNING)
    assert node.runtime.networks.bridges == {"s"}
    assert node.runtime.specs["sub1"].membership == members(2)["sub1"]
    await unassign(node, "main1")
    assert node.runtime.networks.bridges == {"s"}
    await unassign(node, "sub1")
    assert node.runtime.networks.bridges == set()


async def test_a_kernel_alone_gets_no_network(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    assert node.runtime.networks.bridges == set()
    assert node.runtime.specs["k"].membership is None


async def test_a_start_that_failed_leaves_no_network(start: Start) -> None:
    node = await start(RuntimeThatRefusesToStart())
    await assign(node, "main1")
    await until(node, "main1", Phase.FAILED)
    assert node.runtime.networks.bridges == set()


async def test_a_network_that_cannot_be_made_is_named_as_the_step_that_failed(
    start: Start,
) -> None:
    runtime = RuntimeInMemory()
    runtime.networks = NetworksThatAreFull()
    node = await start(runtime)
    await assign(node, "main1")
    kernel = await until(node, "main1", Phase.FAILED)
    assert kernel.exit is not None
    assert (kernel.exit.step, "no addresses left" in kernel.exit.message) == ("network", True)


async def test_a_killed_agents_network_ends_if_its_session_has(start: Start) -> None:
    """F27: what nobody is assigned to any more goes with the first pass."""
    node = await start()
    await assign(node, "main1")
    await until(node, "main1", Phase.RUNNING)
    await node.supervisor.close()
    await node.cluster.delete(keys.assignment("a", "main1"))
    node = await start()
    await eventually(lambda: not node.runtime.networks.bridges)
    await eventually(lambda: not node.runtime.containers)


async def test_a_killed_agents_network_stays_while_its_session_does(start: Start) -> None:
    node = await start()
    for host in members(2):
        await assign(node, host)
        await until(node, host, Phase.RUNNING)
    node = await start()
    await until(node, "sub1", Phase.RUNNING)
    await unassign(node, "main1")
    assert node.runtime.networks.bridges == {"s"}
    await unassign(node, "sub1")
    assert node.runtime.networks.bridges == set()


async def test_a_network_without_a_session_goes_whoever_has_made_it(start: Start) -> None:
    """F27: made by an agent that was killed before it could start anything on it."""
    runtime = RuntimeInMemory()
    runtime.networks.bridges.add("nobody's")
    node = await start(runtime)
    assert node.runtime.networks.bridges == set()


async def test_an_overlay_is_made_as_assigned_and_goes_with_its_record(start: Start) -> None:
    runtime = RuntimeInMemory()
    runtime.networks.swarm_ = SWARM
    node = await start(runtime)
    await assign_overlay(node)
    report = await reported(node, NetworkReport(session_id="s", ready=True))
    assert (report.swarm, report.cluster_modes) == (SWARM, tuple(sorted(ClusterMode)))
    assert runtime.networks.made_overlays == {"s"}
    await node.cluster.delete(keys.network("a", "s"))
    await reported(node)
    assert runtime.networks.made_overlays == set()


async def test_an_overlay_stays_while_something_is_attached_and_then_goes(start: Start) -> None:
    """F27: its removal is tried until it has succeeded, and said meanwhile."""
    runtime = RuntimeInMemory()
    runtime.networks.swarm_ = SWARM
    runtime.networks.attached.add("s")
    node = await start(runtime)
    await assign_overlay(node)
    await reported(node, NetworkReport(session_id="s", ready=True))
    await node.cluster.delete(keys.network("a", "s"))
    words = "Something is still attached to it."
    await reported(node, NetworkReport(session_id="s", ready=False, message=words))
    runtime.networks.attached.clear()
    await reported(node)


async def test_a_killed_agents_overlay_goes_if_nobody_wants_it(start: Start) -> None:
    """F27: overlays are found again by the agent that comes after."""
    runtime = RuntimeInMemory()
    runtime.networks.swarm_ = SWARM
    runtime.networks.made_overlays.add("nobody's")
    await start(runtime)
    assert runtime.networks.made_overlays == set()


async def test_an_agent_outside_of_a_swarm_says_so_instead_of_making_overlays(
    start: Start,
) -> None:
    node = await start()
    await assign_overlay(node)

    async def refused() -> bool:
        return any(
            not one.ready and "swarm" in one.message for one in (await node.report()).networks
        )

    await eventually(refused)
    report = await node.report()
    assert (report.swarm, report.cluster_modes) == (None, (ClusterMode.SINGLE_NODE,))


async def test_a_swarm_that_an_engine_joins_or_leaves_is_reported(start: Start) -> None:
    node = await start()
    node.runtime.networks.swarm_ = SWARM

    async def says(swarm: Swarm | None) -> bool:
        return (await node.report()).swarm == swarm

    await eventually(lambda: says(SWARM))
    node.runtime.networks.swarm_ = None
    await eventually(lambda: says(None))
