"""Agents and managers that run follow the settings in etcd, and refuse what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.stores import open_cluster_store
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(180)
CPU = "BackendAIAgent.cpu_overcommit"
HIDE = "BackendAI.hide_local_kernelspecs"
LOCAL = "python3"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


async def test_what_is_put_into_etcd_holds_without_a_restart(cluster: Cluster) -> None:
    agent = await cluster.add_agent(resource_group="big", stop_grace_s=1.0)
    server = await cluster.add_server()
    cores = await capacity(server) / 8
    assert not await hides_local(server)
    await put(cluster, {CPU: 2, HIDE: True, "BackendAIAgent.stop_grace_s": 5})
    await eventually(lambda: has_capacity(server, 2 * cores), within_s=30)
    await put(cluster, {CPU: 3}, scope="group:big")
    await put(cluster, {CPU: 5}, scope="group:small")
    await eventually(lambda: has_capacity(server, 3 * cores), within_s=30)
    assert "BackendAIAgent.cpu_overcommit is 3.0 now" in agent.log
    assert "stop_grace_s is" not in agent.log  # its own file says another
    await eventually(lambda: hides_local(server))


async def test_a_wrong_value_is_told_and_the_old_one_stays(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    cores = await capacity(server) / 8
    await put(cluster, {CPU: 2, HIDE: True})
    await eventually(lambda: has_capacity(server, 2 * cores), within_s=30)
    async with open_cluster_store(cluster.etcd.url()) as store:
        await store.put(keys.setting("global", HIDE), '"no"')
        await store.put(keys.setting("global", CPU), '"many"')
        note = await eventually(lambda: said(server), within_s=30)
        assert note.startswith(f"config/global/{CPU} is not applied: ")
        assert note in agent.log
        await eventually(lambda: f"config/global/{HIDE} is not applied: " in server.log)
        assert await hides_local(server)
        assert await has_capacity(server, 2 * cores)
        await store.put(keys.setting("global", CPU), "4")
        await eventually(lambda: has_capacity(server, 4 * cores), within_s=30)
    assert "config/global" not in await said(server)


async def put(cluster: Cluster, settings: dict[str, object], *, scope: str = "global") -> None:
    program = "from backendai_jupyter.cli.main import main; main()"
    words = ("etcd", "put-json", "-", f"--scope={scope}", f"--etcd-url={cluster.etcd.url()}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *words, stdin=asyncio.subprocess.PIPE
    )
    await process.communicate(json.dumps(settings).encode())
    assert process.returncode == 0


async def the_agent(server: RunningServer) -> dict[str, Any]:
    (agent,) = (await server.get("backendai/v1/agents")).json()
    return dict(agent)


async def capacity(server: RunningServer) -> float:
    return float((await the_agent(server))["capacity"]["cpu"])


async def has_capacity(server: RunningServer, cpus: float) -> bool:
    return await capacity(server) == cpus


async def hides_local(server: RunningServer) -> bool:
    return LOCAL not in (await server.get("api/kernelspecs")).json()["kernelspecs"]


async def said(server: RunningServer) -> str:
    """Return what the agent says of its shared settings."""
    notes = (await the_agent(server))["notes"]
    return next((note for note in notes if "config/" in note), "")
