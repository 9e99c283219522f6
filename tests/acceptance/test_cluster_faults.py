"""A store of a cluster is killed, or hangs, while a notebook computes: only time is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import KernelClient, printed
from tests.acceptance.test_cluster import leftovers, run, sessions, started
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(240)

TICKS = 40
PATIENCE_S = 3.0
COMPUTES = f"""
import time
for n in range({TICKS}):
    x = n
    print('<%d>' % n, flush=True)
    time.sleep(0.25)
"""


@dataclass(frozen=True)
class Fault:
    """What is done to a store, how it is undone, and what a start says meanwhile."""

    store: str  # as sentences name it
    begin: Callable[[Cluster], Awaitable[None]]
    end: Callable[[Cluster], Awaitable[None]]


async def kill_redis(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.redis.kill)


async def hang_redis(cluster: Cluster) -> None:
    cluster.redis.stop()


async def kill_etcd(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.etcd.kill)


async def hang_etcd(cluster: Cluster) -> None:
    cluster.etcd.stop()


async def kill_postgres(cluster: Cluster) -> None:
    await cluster.postgres.stop(signal.SIGKILL)


async def hang_postgres(cluster: Cluster) -> None:
    cluster.postgres.freeze()


async def thaw_postgres(cluster: Cluster) -> None:
    cluster.postgres.thaw()


async def end_redis(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.redis.end)


async def end_etcd(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.etcd.end)


async def end_postgres(cluster: Cluster) -> None:
    await cluster.postgres.stop()


FAULTS = {
    "redis restarted": Fault("Redis", end_redis, lambda cluster: cluster.redis.up()),
    "etcd restarted": Fault("etcd", end_etcd, lambda cluster: cluster.etcd.up()),
    "postgres restarted": Fault("database", end_postgres, lambda cluster: cluster.postgres.start()),
    "redis killed": Fault("Redis", kill_redis, lambda cluster: cluster.redis.up()),
    "redis hangs": Fault("Redis", hang_redis, lambda cluster: cluster.redis.up()),
    "etcd killed": Fault("etcd", kill_etcd, lambda cluster: cluster.etcd.up()),
    "etcd hangs": Fault("etcd", hang_etcd, lambda cluster: cluster.etcd.up()),
    "postgres killed": Fault("database", kill_postgres, lambda cluster: cluster.postgres.start()),
    "postgres hangs": Fault("database", hang_postgres, thaw_postgres),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        await made.add_agent()
        await made.add_server()
        yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_store_that_is_away_costs_nothing_but_time(cluster: Cluster, fault: Fault) -> None:
    server, (agent,) = cluster.servers[0], cluster.agents
    kernel_id = await started(server)
    async with KernelClient.open(server.url, server.token, kernel_id) as client:
        request = await client.execute(COMPUTES)
        messages = await client.until(lambda m: "<4>" in m.content.get("text", ""))
        await fault.begin(cluster)
        try:
            refusal = await refused(server)
        finally:
            await fault.end(cluster)
        assert fault.store in refusal
        messages += await client.until_done(request, within_s=60)
    assert printed(messages) == "".join(f"<{n}>\n" for n in range(TICKS))
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    await eventually(lambda: starts(server), within_s=60)
    for kernel in (await server.get("api/kernels")).json():
        assert (await server.delete(f"api/kernels/{kernel['id']}")).status_code == 204
    await eventually(lambda: leftovers(agent) == [], within_s=30)
    assert {one["status"] for one in await sessions(server)} <= {"TERMINATED", "CANCELLED"}


@pytest.mark.asyncio(loop_scope="module")
async def test_one_member_of_three_that_is_killed_is_not_missed() -> None:
    async with Cluster(etcd_members=3, agent_lost_s=3.0) as cluster:
        agent, server = await cluster.add_agent(), await cluster.add_server()
        kernel_id = await started(server)
        async with KernelClient.open(server.url, server.token, kernel_id) as client:
            request = await client.execute(COMPUTES)
            messages = await client.until(lambda m: "<4>" in m.content.get("text", ""))
            (leader,) = [member for member in cluster.members if await member.is_leader()]
            await asyncio.to_thread(leader.kill)
            await eventually(lambda: starts(server), within_s=30)
            messages += await client.until_done(request, within_s=60)
        assert printed(messages) == "".join(f"<{n}>\n" for n in range(TICKS))
        await leader.up()
        for kernel in (await server.get("api/kernels")).json():
            assert (await server.delete(f"api/kernels/{kernel['id']}")).status_code == 204
        await eventually(lambda: leftovers(agent) == [], within_s=30)


async def refused(server: RunningServer) -> str:
    """Return what a start is told once the store is missed."""

    async def asked() -> str:
        try:
            answer = await server.post(
                "api/kernels", json={"name": "backendai-python"}, timeout=PATIENCE_S
            )
        except httpx.ReadTimeout:  # it waits for what was there when it began
            return ""
        if answer.status_code == 201:  # it was quick enough
            return ""
        assert answer.status_code == 503, answer.text
        return str(answer.json()["message"])

    return await eventually(asked, within_s=60)


async def starts(server: RunningServer) -> bool:
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    assert answer.status_code in {201, 503}, answer.text
    return answer.status_code == 201
