"""Sessions of several kernels on two nodes with a Docker engine each, as agents have them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from traitlets.config import Config

from backendai_jupyter.cli.cluster import swarm
from backendai_jupyter.cli.findings import Settings, State
from backendai_jupyter.domain.wire import ClusterMode
from tests.acceptance.crash_points import Points
from tests.helpers import eventually
from tests.nodes import Node, Nodes
from tests.orders import Orders, Session, all_reached, execute, remains
from tests.services import url_of
from tests.siblings import ALL_REACHED

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180, func_only=True),
]

SINGLE, MULTI = ClusterMode.SINGLE_NODE, ClusterMode.MULTI_NODE
GONE_WITHIN_S = 60.0
HELD_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("points") / "s"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def points(listener: Path) -> AsyncIterator[Points]:
    async with Points.listen(listener) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders(points: Points, listener: Path) -> AsyncIterator[Orders]:
    env = {"BACKENDAI_POINTS": str(listener)}
    async with (
        Nodes(managers=0, agent_lost_s=60.0, swarm=True, env=env, stop_grace_s=0.5) as nodes,
        Orders.over(nodes) as made,
    ):
        # An engine keeps what it makes for its first overlay.
        await made.end(await started(made, ClusterMode.MULTI_NODE))
        yield made


def places(orders: Orders, mode: ClusterMode) -> list[Node]:
    """Return three: on one node, or on two."""
    one, other = orders.nodes.nodes
    return [other, other, other] if mode is SINGLE else [one, other, one]


async def started(orders: Orders, mode: ClusterMode) -> Session:
    session = await orders.order(places(orders, mode), mode)
    await orders.until_running(session)
    return session


@pytest.mark.parametrize("mode", ClusterMode)
async def test_kernels_of_one_session_reach_each_other_by_name(
    orders: Orders, mode: ClusterMode
) -> None:
    """F36: each reaches each, itself included, wherever they are; its name is its host name."""
    before = [remains(node) for node in orders.nodes.nodes]
    session = await started(orders, mode)
    said = await all_reached(session)
    for host in session.hosts:
        assert said[host].rstrip().endswith(ALL_REACHED), said
        addresses = {line.split()[3]: line.split()[5] for line in reached(said[host])}
        assert addresses == {line.split()[3]: line.split()[5] for line in reached(said["main1"])}
        assert execute(session, host, "import os; print(os.uname().nodename)") == f"{host}\n"
    await orders.end(session)
    await nothing_left(orders, before)


async def test_agents_say_which_swarm_they_are_in_and_who_manages_it(orders: Orders) -> None:
    one, other = [await orders.report(node) for node in orders.nodes.nodes]
    assert one.swarm is not None
    assert other.swarm is not None
    assert one.swarm.id == other.swarm.id
    assert (one.swarm.manages, other.swarm.manages) == (True, False)
    assert one.cluster_modes == other.cluster_modes == (MULTI, SINGLE)


async def test_doctor_says_whether_the_managers_of_the_swarm_answer(orders: Orders) -> None:
    one, other = orders.nodes.nodes
    doctor = partial(swarm, settings_of(orders, other))
    found = await doctor()
    assert (found.state, found.advice) == (State.OK, ""), found
    one.machine.cut()
    try:
        found = await doctor()
    finally:
        one.machine.join()
    assert found.state is State.WARN
    assert f"{one.machine.address}:2377, {one.machine.address}:7946" in found.message


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        (SINGLE, "agent.step.network"),
        (SINGLE, "agent.bridge.made"),
        (SINGLE, "agent.done.network"),
        (SINGLE, "agent.container.created"),
        (SINGLE, "agent.done.container"),
        (MULTI, "agent.done.network"),
        (MULTI, "agent.container.created"),
        (MULTI, "agent.done.container"),
    ],
)
async def test_an_agent_that_is_killed_while_it_starts_a_session_leaves_no_network(
    orders: Orders, points: Points, mode: ClusterMode, point: str
) -> None:
    """F27: a session that is over before its agent is back leaves nothing at any step."""
    before = [remains(node) for node in orders.nodes.nodes]
    points.arm(point)
    session = await orders.order(places(orders, mode), mode)
    assert await points.until_held(within_s=HELD_WITHIN_S)
    await kill_and_restart(orders, points, session)
    await nothing_left(orders, before)


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        (SINGLE, "agent.undo.network"),
        (MULTI, "agent.undo.network"),
        (MULTI, "agent.overlay.unwanted"),
    ],
)
async def test_an_agent_that_is_killed_while_it_ends_a_session_leaves_no_network(
    orders: Orders, points: Points, mode: ClusterMode, point: str
) -> None:
    """F27: what was not undone is found and undone by the agent that comes after."""
    before = [remains(node) for node in orders.nodes.nodes]
    session = await started(orders, mode)
    points.arm(point)
    await orders.withdraw(session)
    assert await points.until_held(within_s=HELD_WITHIN_S)
    await kill_and_restart(orders, points, session)
    await nothing_left(orders, before)


async def test_an_overlay_whose_maker_is_killed_after_it_was_made_is_reported_or_removed(
    orders: Orders, points: Points
) -> None:
    """F27: making one that is there succeeds, and it goes with its record."""
    before = [remains(node) for node in orders.nodes.nodes]
    points.arm("agent.overlay.made")
    await orders.order_overlay("lonely")
    assert await points.until_held(within_s=HELD_WITHIN_S)
    session = Session("lonely", MULTI, {}, {})
    agent = orders.nodes.nodes[0].agent
    await agent.kill()
    points.release()
    await agent.start()
    await eventually(lambda: orders.has_overlay("lonely"), within_s=GONE_WITHIN_S)
    await orders.end(session)
    await nothing_left(orders, before)


async def test_many_sessions_one_after_the_other_leave_no_network(orders: Orders) -> None:
    """F27: networks, endpoints, addresses and namespaces all come back."""
    before = [remains(node) for node in orders.nodes.nodes]
    for number in range(6):
        session = await started(orders, [SINGLE, MULTI][number % 2])
        await orders.end(session)
    await nothing_left(orders, before)


def settings_of(orders: Orders, node: Node) -> Settings:
    config, cluster = Config(), orders.nodes.cluster
    section = config.BackendAIAgent
    section.docker_url = node.engine.url
    section.etcd_url, section.redis_url = url_of(cluster.members), cluster.redis.url()
    section.cluster_secret_file = str(cluster.secret)
    section.vfolder_hosts = {"local": str(cluster.vfroot)}
    return Settings.of(config, is_agent=True)


async def kill_and_restart(orders: Orders, points: Points, session: Session) -> None:
    """Kill the agent that is held, take its orders back, and let it come again."""
    (agent,) = [n.agent for n in orders.nodes.nodes if n.agent.pid == points.held_pid]
    agent.signal(signal.SIGKILL)
    await agent.wait()
    points.release()
    await orders.withdraw(session)
    await agent.start()


async def nothing_left(orders: Orders, before: Sequence[set[str]]) -> None:
    left: list[set[str]] = []

    def is_clean() -> bool:
        now = [remains(node) for node in orders.nodes.nodes]
        left[:] = [new - old for new, old in zip(now, before, strict=True)]
        return not any(left)

    try:
        await eventually(is_clean, within_s=GONE_WITHIN_S)
    except AssertionError:
        raise AssertionError(f"left: {left}") from None


def reached(said: str) -> list[str]:
    return [line for line in said.splitlines() if " has reached " in line]
