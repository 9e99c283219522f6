"""Jupyter Servers and agents as a cluster: real processes over real etcd and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.cluster import Cluster

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


async def test_a_notebook_runs_on_an_agent_of_its_own(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    assert answer.status_code == 201, (answer.text, server.log)
    (session,) = (await server.get("backendai/v1/sessions")).json()
    assert session["status"] == "RUNNING"
    assert session["kernels"][0]["agent_id"] == agent.name
    async with KernelClient.open(server.url, server.token, answer.json()["id"]) as client:
        assert await printed(client, "print(6 * 7)") == "42\n"
