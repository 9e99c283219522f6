"""What kernels and nodes use, as clients see it: REST and the command line, one node and many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.channels import Channels, started
from tests.acceptance.test_cluster import run
from tests.acceptance.test_cluster import started as start_kernel
from tests.acceptance.test_operator import jupyter_backendai
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
OFTEN = "c.BackendAIAgent.statistics_s = 0.5\n"
ASKED = {"statistics": "true"}
BURN = "import time\nbegin = time.process_time()\nwhile time.process_time() < begin + 3: pass"
HOLD = "held = b'x' * (200 << 20)"


@pytest.fixture
async def server(server_config: str, short_tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with RunningServer(short_tmp_path, config=server_config + OFTEN) as running:
        yield running


async def kernel_of(server: RunningServer, session_id: str) -> dict[str, Any]:
    answer = await server.get(f"backendai/v1/sessions/{session_id}", params=ASKED)
    assert answer.status_code == 200, answer.text
    kernel: dict[str, Any] = answer.json()["kernels"][0]
    return kernel


async def measured(server: RunningServer, session_id: str) -> dict[str, Any]:
    """Return what the kernel uses, once that is known."""

    async def found() -> dict[str, Any]:
        kernel = await kernel_of(server, session_id)
        statistics: dict[str, Any] = kernel["statistics"]
        assert statistics or kernel["statistics_reason"]
        return statistics

    return await eventually(found, within_s=30)


async def node_of(server: RunningServer) -> dict[str, Any]:
    (agent,) = (await server.get("backendai/v1/agents", params=ASKED)).json()
    one: dict[str, Any] = (
        await server.get(f"backendai/v1/agents/{agent['id']}", params=ASKED)
    ).json()
    assert one["id"] == agent["id"]
    return one


async def test_a_kernel_shows_what_it_uses(server: RunningServer) -> None:
    kernel_id = await started(server)
    before = await measured(server, kernel_id)
    async with Channels.open(server, kernel_id) as channels:
        await channels.run(f"{HOLD}\n{BURN}")

        async def has_burnt() -> bool:
            found = await measured(server, kernel_id)
            return bool(found["cpu_used_s"] - before["cpu_used_s"] > 2.9)

        await eventually(has_burnt)
        held = await measured(server, kernel_id)
        assert held["memory_used_bytes"] - before["memory_used_bytes"] > 190 * MIB
        assert held["memory_limit_bytes"] > held["memory_peak_bytes"] > 200 * MIB
        await channels.run("del held")

        async def is_free() -> bool:
            found = await measured(server, kernel_id)
            return bool(found["memory_used_bytes"] < held["memory_used_bytes"] - 150 * MIB)

        await eventually(is_free)
        freed = await measured(server, kernel_id)
        assert freed["memory_peak_bytes"] >= held["memory_peak_bytes"]


async def test_statistics_come_when_they_are_asked_for(server: RunningServer) -> None:
    kernel_id = await started(server)
    await measured(server, kernel_id)
    unasked = (await server.get(f"backendai/v1/sessions/{kernel_id}")).json()["kernels"][0]
    assert (unasked["statistics"], unasked["statistics_reason"]) == (None, "")
    (listed,) = (await server.get("backendai/v1/sessions", params=ASKED)).json()
    assert listed["kernels"][0]["statistics"]["cpu_used_s"] > 0
    node = await node_of(server)
    assert node["statistics"]["kernels_running"] == 1
    assert node["statistics"]["scratch_free_bytes"] > 0
    wrong = await server.get("backendai/v1/agents/nobody", params=ASKED)
    assert wrong.status_code == 404
    assert (await server.get("backendai/v1/agents", params={"statistic": 1})).status_code == 400


async def test_a_restarted_kernel_begins_anew(server: RunningServer) -> None:
    kernel_id = await started(server)
    async with Channels.open(server, kernel_id) as channels:
        await channels.run(BURN)

    async def has_burnt() -> bool:
        return bool((await measured(server, kernel_id))["cpu_used_s"] > 3)

    await eventually(has_burnt)
    assert (await server.post(f"api/kernels/{kernel_id}/restart")).status_code == 200
    found = await measured(server, kernel_id)
    assert found["generation"] == 2
    assert found["cpu_used_s"] < 3


async def test_commands_show_what_is_used(server: RunningServer) -> None:
    kernel_id = await started(server)
    await measured(server, kernel_id)
    listed = await jupyter_backendai("session", "ls", env=server.env)
    assert (listed.code, "MEMORY" in listed.out, " MiB" in listed.out) == (0, True, True), listed
    shown = await jupyter_backendai("session", "show", kernel_id, env=server.env)
    assert "cores now" in shown.out, shown
    told = await jupyter_backendai("session", "show", kernel_id, "--json", env=server.env)
    assert told.json["kernels"][0]["statistics"]["processes"] > 0
    (agent,) = (await jupyter_backendai("agent", "ls", "--json", env=server.env)).json
    assert agent["statistics"]["cpus"] > 0
    node = await jupyter_backendai("agent", "show", agent["id"], env=server.env)
    assert " free of " in node.out, node
    whole = await jupyter_backendai("agent", "show", agent["id"], "--json", env=server.env)
    assert json.loads(whole.out)["statistics"]["memory_total_bytes"] > 0


async def test_every_manager_knows_until_redis_or_the_agent_is_away() -> None:
    async with Cluster() as cluster:
        agent = await cluster.add_agent(statistics_s=0.5)
        one, other = await asyncio.gather(cluster.add_server(), cluster.add_server())
        kernel_id = await start_kernel(one)
        await run(one, kernel_id, HOLD)
        for server in (one, other):
            await until_held(server, kernel_id)
            assert (await node_of(server))["statistics"]["kernels_running"] == 1
        await asyncio.to_thread(cluster.redis.kill)
        for server in (one, other):
            kernel, node = await kernel_of(server, kernel_id), await node_of(server)
            for what in (kernel, node):
                assert what["statistics"] is None
                assert "Redis" in what["statistics_reason"]
            assert kernel["status"] == "RUNNING"
        assert await run(one, kernel_id, "print(len(held))") == f"{200 * MIB}\n"
        await cluster.redis.up()
        for server in (one, other):
            await until_held(server, kernel_id)
        await agent.kill()
        await eventually(lambda: has_expired(other, kernel_id), within_s=30)
        kernel = await kernel_of(one, kernel_id)
        assert kernel["statistics_reason"] == "The agent agent-1 has published none for a while."
        assert (await node_of(one))["statistics"] is None
        await agent.start()
        await until_held(one, kernel_id)


async def until_held(server: RunningServer, kernel_id: str) -> None:
    async def has_held() -> bool:
        return bool((await measured(server, kernel_id))["memory_peak_bytes"] > 200 * MIB)

    await eventually(has_held, within_s=30)


async def has_expired(server: RunningServer, kernel_id: str) -> bool:
    return (await kernel_of(server, kernel_id))["statistics"] is None
