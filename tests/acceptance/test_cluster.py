"""A Jupyter Server and agents as a cluster: real processes over real etcd and Redis."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.acceptance.kernel_client import KernelClient, printed
from tests.acceptance.test_operator import jupyter_backendai
from tests.cluster import AgentProcess, Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(agent_lost_s=3.0) as made:
        yield made


async def test_a_kernel_runs_on_an_agent_of_its_own(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    kernel_id = await started(server)
    (session,) = await sessions(server)
    assert session["status"] == "RUNNING"
    assert session["kernels"][0]["agent_id"] == agent.name
    assert await run(server, kernel_id, "print(6 * 7)") == "42\n"
    answer = await server.delete(f"api/kernels/{kernel_id}")
    assert answer.status_code == 204
    assert leftovers(agent) == []


async def test_kernels_outlive_agent_and_server(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    kernel_id = await started(server)
    await run(server, kernel_id, "x = 1")
    for end in (agent.kill, agent.stop):
        await end()
        assert await run(server, kernel_id, "x += 1; print(x)") != ""
        await agent.start()
    for signum in (signal.SIGKILL, signal.SIGTERM):
        server.signal(signum)
        await server.wait()
        await server.start()
    assert await run(server, kernel_id, "print(x)") == "3\n"


async def test_an_agent_that_stays_away_is_lost_and_cleans_up_when_it_returns(
    cluster: Cluster,
) -> None:
    """F5: ``TERMINATING`` ends also when the agent cannot be reached."""
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    kernel_id = await started(server)
    await agent.kill()

    async def is_lost() -> bool:
        (session,) = await sessions(server)
        return bool(session["status"] == "TERMINATED")

    await eventually(is_lost, within_s=60)
    (session,) = await sessions(server)
    ending = session["kernels"][0]["exit"]
    assert (ending["reason"], agent.name in ending["message"]) == ("agent-lost", True)
    assert leftovers(agent) != []
    await agent.start()
    await eventually(lambda: leftovers(agent) == [], within_s=30)
    answer = await server.get("backendai/v1/agents")
    assert {slot for slot, used in answer.json()[0]["used"].items() if used != "0"} == set()
    assert kernel_id not in {kernel["id"] for kernel in (await server.get("api/kernels")).json()}


async def test_a_drained_agent_keeps_its_kernels_and_gets_no_more(cluster: Cluster) -> None:
    """F6: what ends does so on an agent that takes nothing new."""
    first = await cluster.add_agent()
    server = await cluster.add_server()
    kernel_id = await started(server)
    second = await cluster.add_agent()
    drained = await jupyter_backendai("agent", "drain", first.name, env=server.env)
    assert drained.code == 0, drained
    await eventually(lambda: is_alive(server, second))
    await started(server)
    placed = {s["id"]: s["kernels"][0]["agent_id"] for s in await sessions(server)}
    assert sorted(placed.values()) == [first.name, second.name]
    assert await run(server, kernel_id, "print(1)") == "1\n"
    undrained = await jupyter_backendai("agent", "undrain", first.name, env=server.env)
    assert undrained.code == 0, undrained


async def test_a_second_node_cannot_have_the_id_of_the_first(cluster: Cluster) -> None:
    await cluster.add_agent()
    with pytest.raises(AssertionError, match=r"Another node is registered as agent agent-1\."):
        await cluster.add_agent(agent_id="agent-1")


async def started(server: RunningServer) -> str:
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    assert answer.status_code == 201, (answer.text, server.log)
    return str(answer.json()["id"])


async def sessions(server: RunningServer) -> list[dict[str, Any]]:
    answer = await server.get("backendai/v1/sessions")
    return list(answer.json())


async def run(server: RunningServer, kernel_id: str, code: str) -> str:
    async with KernelClient.open(server.url, server.token, kernel_id) as client:
        request = await client.execute(code)
        messages = await client.until_done(request)
    # A new client is heir to what the last one did not say that it has got.
    return printed([message for message in messages if message.parent.get("msg_id") == request])


async def is_alive(server: RunningServer, agent: AgentProcess) -> bool:
    found = (await server.get("backendai/v1/agents")).json()
    return any(one["id"] == agent.name and one["status"] == "alive" for one in found)


def leftovers(agent: AgentProcess) -> list[str]:
    """Return what runs of this agent's kernels, and the directories that they have."""
    processes = [
        str(process.pid)
        for process in psutil.process_iter(["cmdline"])
        if any(str(agent.root) in word for word in process.info["cmdline"] or ())
        and any("ipykernel" in word for word in process.info["cmdline"])
    ]
    homes = [path.name for path in (agent.root / "state" / "scratch").glob("*-*/")]
    return processes + homes
