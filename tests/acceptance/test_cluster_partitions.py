"""The network between an agent, or a manager, and the stores is cut and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.acceptance.test_cluster import is_alive, leftovers, run, sessions, started
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer
from tests.services import Wire

pytestmark = pytest.mark.timeout(240)


class Wires:
    """The connections of one process to the stores of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.by_store: dict[str, Wire] = {}
        self.urls: dict[str, Any] = {}

    async def open(self, stack: AsyncExitStack) -> None:
        cluster = self._cluster
        stores = {
            "etcd_url": (cluster.etcd.url(), cluster.etcd.port),
            "redis_url": (cluster.redis.url(), cluster.redis.port),
            "database_url": (cluster.postgres.url, cluster.postgres.port),
        }
        for name, (url, port) in stores.items():
            self.by_store[name] = wire = Wire(port)
            stack.push_async_callback(wire.close)
            self.urls[name] = url.replace(f":{port}/", f":{await wire.open()}/")

    def cut(self, names: Iterable[str]) -> None:
        for name in names:
            self.by_store[name].cut()

    def join(self) -> None:
        for wire in self.by_store.values():
            wire.join()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(agent_lost_s=4.0) as made:
        yield made


@pytest.fixture
async def wires(cluster: Cluster) -> AsyncIterator[Wires]:
    async with AsyncExitStack() as stack:
        opened = Wires(cluster)
        await opened.open(stack)
        yield opened
        opened.join()


OF_AGENTS = ("etcd_url", "redis_url")


async def test_an_agent_that_is_cut_off_for_a_while_keeps_its_kernels(
    cluster: Cluster, wires: Wires
) -> None:
    agent = await cluster.add_agent(**{name: wires.urls[name] for name in OF_AGENTS})
    server = await cluster.add_server()
    kernel_id = await started(server)
    await run(server, kernel_id, "x = 1")
    wires.cut(OF_AGENTS)
    await eventually(lambda: is_missing(server, agent.name), within_s=30)
    assert await run(server, kernel_id, "x += 1; print(x)") == "2\n"
    wires.join()
    await eventually(lambda: is_alive(server, agent), within_s=30)
    assert await run(server, kernel_id, "x += 1; print(x)") == "3\n"
    second = await started(server)
    assert await run(server, second, "print('new')") == "new\n"


async def test_an_agent_that_is_cut_off_for_too_long_ends_what_was_ended_without_it(
    cluster: Cluster, wires: Wires
) -> None:
    agent = await cluster.add_agent(**{name: wires.urls[name] for name in OF_AGENTS})
    server = await cluster.add_server()
    await started(server)
    wires.cut(OF_AGENTS)
    await eventually(lambda: has_ended(server), within_s=60)
    assert leftovers(agent) != []
    wires.join()
    await eventually(lambda: leftovers(agent) == [], within_s=30)
    await eventually(lambda: is_alive(server, agent), within_s=30)
    fresh = await started(server)
    assert await run(server, fresh, "print('new')") == "new\n"


@pytest.mark.parametrize("store", ["etcd_url", "redis_url", "database_url"])
async def test_a_leader_that_is_cut_off_from_a_store_is_replaced_or_waited_for(
    cluster: Cluster, wires: Wires, store: str
) -> None:
    await cluster.add_agent()
    first = await cluster.add_server(**wires.urls)
    kernel_id = await started(first)
    await run(first, kernel_id, "x = 1")
    second = await cluster.add_server()
    wires.cut([store])
    await eventually(lambda: starts(second), within_s=60)
    assert await run(second, kernel_id, "x += 1; print(x)") == "2\n"
    wires.join()
    await eventually(lambda: starts(first), within_s=60)
    assert await run(first, kernel_id, "x += 1; print(x)") == "3\n"


async def is_missing(server: RunningServer, agent_id: str) -> bool:
    found = (await server.get("backendai/v1/agents")).json()
    return any(one["id"] == agent_id and one["status"] == "lost" for one in found)


async def has_ended(server: RunningServer) -> bool:
    (session,) = await sessions(server)
    return bool(session["status"] == "TERMINATED")


async def starts(server: RunningServer) -> bool:
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    assert answer.status_code in {201, 503, 500}, answer.text
    return answer.status_code == 201
