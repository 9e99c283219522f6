"""Sessions of several kernels in a cluster: each server has all kernels; agents may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.test_managers import run
from tests.cluster import AgentProcess, Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

ASKED = {"resources": {"cpu": 0.2, "mem": "256m"}, "cluster_size": 2}
WHO = "import os; print(os.environ['BACKENDAI_CLUSTER_HOST'])"


@dataclass
class Pair:
    agents: list[AgentProcess]
    one: RunningServer
    other: RunningServer

    async def start(self, **options: object) -> dict[str, Any]:
        """Start a session of two kernels through the one server."""
        body = {"name": "backendai-python", "backendai": {**ASKED, **options}}
        answer = await self.one.post("api/kernels", json=body)
        assert answer.status_code == 201, (answer.text, self.one.log)
        return await self.read(answer.json()["backendai"]["session_id"])

    async def read(self, session_id: str) -> dict[str, Any]:
        answer = await self.other.get(f"backendai/v1/sessions/{session_id}")
        found: dict[str, Any] = answer.json()
        return found

    async def is_over(self, session_id: str) -> bool:
        return (await self.read(session_id))["ended_at"] is not None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with Cluster(agent_lost_s=3.0) as cluster:
        agents = [await cluster.add_agent(), await cluster.add_agent()]
        one, other = await asyncio.gather(cluster.add_server(), cluster.add_server())
        yield Pair(agents, one, other)


async def test_every_server_has_every_kernel(pair: Pair) -> None:
    session = await pair.start()
    hosts = {kernel["id"]: kernel["hostname"] for kernel in session["kernels"]}
    for kernel_id, host in hosts.items():  # the very first request finds it
        assert await run(pair.other, kernel_id, WHO) == f"{host}\n"
    for server in (pair.one, pair.other):
        listed = (await server.get("api/kernels")).json()
        assert {model["id"]: model["backendai"]["hostname"] for model in listed} == hosts
    main, sub = hosts
    assert (await pair.other.post(f"api/kernels/{sub}/restart")).status_code == 200
    assert await run(pair.one, sub, "print('x' in globals())") == "False\n"
    assert (await pair.other.delete(f"api/kernels/{main}")).status_code == 204
    for server in (pair.one, pair.other):
        assert (await server.get("api/kernels")).json() == []
        assert (await server.get(f"api/kernels/{sub}")).status_code == 404
    await eventually(lambda: pair.is_over(session["id"]), within_s=30)


async def test_all_kernels_of_one_node_end_with_its_agent(pair: Pair) -> None:
    session = await pair.start(failure_policy="degraded")
    (agent_id,) = {kernel["agent_id"] for kernel in session["kernels"]}
    agent = next(agent for agent in pair.agents if agent.name == agent_id)
    await agent.kill()
    try:
        await eventually(lambda: pair.is_over(session["id"]), within_s=60)
        assert "was lost" in (await pair.read(session["id"]))["status_reason"]
        again = await pair.start()
        assert {k["agent_id"] for k in again["kernels"]} == {
            one.name for one in pair.agents if one is not agent
        }
        await pair.one.delete(f"backendai/v1/sessions/{again['id']}")
    finally:
        await agent.start()
