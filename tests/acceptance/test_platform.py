"""What the stores and the ends of processes do to a cluster in the long run."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backendai_jupyter.cluster.stores import open_cluster_store
from tests.acceptance.test_cluster import is_alive, run, started
from tests.cluster import AgentProcess, Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

ENDS_WITHIN_S = 20.0  # before what started it, systemd or a container engine, loses its patience


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        await made.add_agent()
        await made.add_server()
        yield made


async def test_processes_that_were_killed_leave_nothing_in_the_stores(cluster: Cluster) -> None:
    """F58: what is kept for a consumer that never comes again piles up."""
    server, (agent,) = cluster.servers[0], cluster.agents
    kernel_id = await started(server)
    await run(server, kernel_id, "print(1)")
    before = await kept(cluster)
    for _ in range(3):
        for process in (server, agent):
            process.signal(signal.SIGKILL)
            await process.wait()
            await process.start()
    await eventually(lambda: is_alive(server, agent), within_s=30)
    assert await run(server, kernel_id, "print(1)") == "1\n"

    async def is_as_before() -> bool:
        return await kept(cluster) == before

    await eventually(is_as_before, within_s=30)  # leases of those that were killed run out
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204


@pytest.mark.parametrize("who", ["manager", "agent"])
async def test_a_process_ends_in_time_though_every_store_hangs(cluster: Cluster, who: str) -> None:
    """F59: the end of a manager waits for a store that does not answer."""
    server, (agent,) = cluster.servers[0], cluster.agents
    process: AgentProcess | RunningServer = server if who == "manager" else agent
    kernel_id = await started(server)
    await run(server, kernel_id, "x = 1")
    cluster.etcd.stop()
    cluster.redis.stop()
    cluster.postgres.freeze()
    try:
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        await process.wait()
        assert time.monotonic() - began < ENDS_WITHIN_S
    finally:
        cluster.postgres.thaw()
        cluster.redis.go_on()
        cluster.etcd.go_on()
    await process.start()
    await eventually(lambda: is_alive(server, agent), within_s=30)
    assert await run(server, kernel_id, "x += 1; print(x)") == "2\n"
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204


async def kept(cluster: Cluster) -> tuple[list[str], list[str], list[str]]:
    """Return the keys of etcd, and the keys and channels of Redis."""
    async with open_cluster_store(cluster.etcd.url()) as store:
        entries = (await store.list("")).entries
    found = await cluster.redis.command("KEYS", "*")
    channels = await cluster.redis.command("PUBSUB", "CHANNELS")
    return sorted(entry.key for entry in entries), sorted(found), sorted(channels)
