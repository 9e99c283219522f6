"""What each fault of a node with a Docker engine costs while a notebook computes there.

The first node's engine keeps its containers while it is away (``live-restore``), the second's
does not.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.acceptance.cluster_remains import nothing_left, shims
from tests.acceptance.kernel_client import KernelClient, Message, printed
from tests.acceptance.test_cluster import is_alive, run, sessions
from tests.acceptance.test_cluster_faults import COMPUTES, TICKS
from tests.acceptance.test_cluster_partitions import is_missing
from tests.helpers import eventually
from tests.nodes import Node, Nodes
from tests.server import RunningServer
from tests.small_disk import SmallDisk

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240, func_only=True),
]

LINES = 20_000
FLOODS = f"for n in range({LINES}): print('<%d>' % n, flush=n % 100 == 0)"
ENDS = [signal.SIGKILL, signal.SIGTERM]
ALL = "".join(f"<{n}>\n" for n in range(TICKS))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    async with Nodes(agent_lost_s=6.0) as made:
        yield made


@pytest.mark.parametrize("signum", ENDS)
async def test_kernels_go_on_without_an_engine_that_restores_them(
    nodes: Nodes, signum: signal.Signals
) -> None:
    node, server = nodes.nodes[0], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    async with opened(server, kernel_id) as client:
        request = await client.execute(COMPUTES)
        messages = await client.until(shows("<4>"))
        os.kill(node.engine.pid, signum)
        elsewhere = await eventually(lambda: starts(server), within_s=60)
        messages += await client.until(shows("<8>"))
        node.engine.start_again()
        messages += await client.until_done(request)
    assert printed(messages) == ALL
    assert await agent_of(server, elsewhere) == nodes.nodes[1].name
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    await starts_again_on(nodes, node)
    await nothing_left(nodes)


async def test_an_engine_and_its_agent_that_are_killed_together_cost_nothing(nodes: Nodes) -> None:
    node, server = nodes.nodes[0], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    async with opened(server, kernel_id) as client:
        request = await client.execute(COMPUTES)
        messages = await client.until(shows("<4>"))
        os.kill(node.engine.pid, signal.SIGKILL)
        await node.agent.kill()
        with pytest.raises(AssertionError, match="no Docker engine answers"):
            await node.agent.start()
        node.engine.start_again()
        await node.agent.start()
        messages += await client.until_done(request)
    assert printed(messages) == ALL
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    await nothing_left(nodes)


async def test_an_end_that_is_asked_for_while_the_engine_is_away_comes_when_it_is_back(
    nodes: Nodes,
) -> None:
    node, server = nodes.nodes[0], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    os.kill(node.engine.pid, signal.SIGKILL)
    ending = asyncio.ensure_future(server.delete(f"api/kernels/{kernel_id}"))
    await eventually(lambda: is_at(server, kernel_id, "TERMINATING"), within_s=30)
    assert [*shims(node)] != []
    node.engine.start_again()
    assert (await ending).status_code == 204
    await nothing_left(nodes)


@pytest.mark.parametrize("signum", ENDS)
async def test_kernels_end_with_an_engine_that_does_not_and_say_so(
    nodes: Nodes, signum: signal.Signals
) -> None:
    node, server = nodes.nodes[1], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    await run(server, kernel_id, "x = 1")
    os.kill(node.engine.pid, signum)
    node.engine.start_again()
    await eventually(lambda: is_restarted(server, kernel_id), within_s=60)
    assert await run(server, kernel_id, "print('x' in dir())") == "False\n"
    (reason,) = [step["reason"] for step in await history(server, kernel_id, "RESTARTING")]
    assert reason.startswith("The kernel was ended by signal"), reason
    await nothing_left(nodes)


@pytest.mark.parametrize("signum", ENDS)
async def test_an_agent_that_ends_costs_nothing(nodes: Nodes, signum: signal.Signals) -> None:
    node, server = nodes.nodes[0], nodes.servers[1]
    kernel_id = await started_on(nodes, node)
    async with opened(server, kernel_id) as client:
        request = await client.execute(COMPUTES)
        messages = await client.until(shows("<4>"))
        node.agent.signal(signum)
        await node.agent.wait()
        messages += await client.until(shows("<8>"))
        await node.agent.start()
        messages += await client.until_done(request)
    assert printed(messages) == ALL
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    await starts_again_on(nodes, node)
    await nothing_left(nodes)


@pytest.mark.parametrize("signum", ENDS)
async def test_a_relay_that_ends_in_a_flood_loses_no_line(
    nodes: Nodes, signum: signal.Signals
) -> None:
    node, server = nodes.nodes[1], nodes.servers[1]
    kernel_id = await started_on(nodes, node)
    async with opened(server, kernel_id) as client:
        request = await client.execute(FLOODS)
        messages = await client.until(shows("<2000>"))
        relay_of(node).send_signal(signum)
        messages += await client.until_done(request, within_s=60)
    assert printed(messages) == "".join(f"<{n}>\n" for n in range(LINES))
    assert await run(server, kernel_id, "print(n)") == f"{LINES - 1}\n"
    await nothing_left(nodes)


async def test_a_node_that_is_cut_off_for_a_while_loses_nothing(nodes: Nodes) -> None:
    node, server = nodes.nodes[0], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    async with opened(server, kernel_id) as client:
        request = await client.execute(f"{COMPUTES}\nfor n in range(5000): print(n)")
        messages = await client.until(shows("<4>"))
        node.machine.cut()
        await eventually(lambda: is_missing(server, node.name), within_s=30)
        node.machine.join()
        messages += await client.until_done(request, within_s=60)
    assert printed(messages) == ALL + "".join(f"{n}\n" for n in range(5000))
    await eventually(lambda: is_alive(server, node.agent), within_s=30)
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    await starts_again_on(nodes, node)
    await nothing_left(nodes)


async def test_a_node_that_is_cut_off_for_too_long_clears_up_when_it_is_back(nodes: Nodes) -> None:
    node, server = nodes.nodes[0], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    node.machine.cut()
    await eventually(lambda: is_at(server, kernel_id, "TERMINATED"), within_s=60)
    session = next(s for s in await sessions(server) if s["id"] == kernel_id)
    assert session["kernels"][0]["exit"]["reason"] == "agent-lost"
    assert len(node.containers()) == 1
    node.machine.join()
    await eventually(lambda: node.containers() == [], within_s=60)
    await starts_again_on(nodes, node)
    await nothing_left(nodes)


async def test_a_node_whose_disk_is_full_refuses_starts_and_goes_on(nodes: Nodes) -> None:
    node, server = nodes.nodes[1], nodes.servers[0]
    kernel_id = await started_on(nodes, node)
    await run(server, kernel_id, "x = 1")
    disk = SmallDisk(node.machine.seen(node.machine.state_dir))
    disk.fill()
    try:
        answer = await ask_for_one_on(nodes, node)
        assert answer["code"] == "launch-failed"
        assert str(node.machine.state_dir) in answer["message"]
        assert "2\n" in await run(server, kernel_id, "x += 1; print(x)")
    finally:
        disk.make_room()
    assert await run(server, kernel_id, "x += 1; print(x)") == "3\n"
    await starts_again_on(nodes, node)
    await nothing_left(nodes)


def opened(server: RunningServer, kernel_id: str) -> Any:
    return KernelClient.open(server.url, server.token, kernel_id)


def shows(text: str) -> Any:
    def holds(message: Message) -> bool:
        return text in message.content.get("text", "")

    return holds


async def ask_for_one_on(nodes: Nodes, node: Node) -> dict[str, Any]:
    """Ask for a kernel while nothing else takes any, and return the answer's content."""
    server, others = nodes.servers[0], [one for one in nodes.nodes if one is not node]
    await drain(server, others, is_drained=True)
    try:
        answer = await server.post("api/kernels", json={"name": "backendai-python"})
    finally:
        await drain(server, others, is_drained=False)
    return dict(answer.json())


async def drain(server: RunningServer, nodes: list[Node], *, is_drained: bool) -> None:
    for node in nodes:
        path = f"backendai/v1/agents/{node.name}"
        answer = await server.request("PATCH", path, json={"is_drained": is_drained})
        assert answer.is_success, answer.text


async def started_on(nodes: Nodes, node: Node) -> str:
    answer = await ask_for_one_on(nodes, node)
    assert "id" in answer, answer
    return str(answer["id"])


async def starts_again_on(nodes: Nodes, node: Node) -> None:
    """A kernel can be started there soon, and computes."""

    async def starts() -> str:
        return str((await ask_for_one_on(nodes, node)).get("id", ""))

    kernel_id = await eventually(starts, within_s=60)
    assert await run(nodes.servers[1], kernel_id, "print(6 * 7)") == "42\n"


async def starts(server: RunningServer) -> str:
    """Return the id of a kernel that was started anywhere, or nothing."""
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    return str(answer.json().get("id", ""))


async def agent_of(server: RunningServer, session_id: str) -> str:
    detail = (await server.get(f"backendai/v1/sessions/{session_id}")).json()
    return str(detail["kernels"][0]["agent_id"])


async def history(server: RunningServer, session_id: str, status: str) -> list[dict[str, Any]]:
    detail = (await server.get(f"backendai/v1/sessions/{session_id}")).json()
    return [step for step in detail["history"] if step["after"] == status]


async def is_restarted(server: RunningServer, kernel_id: str) -> bool:
    detail = (await server.get(f"backendai/v1/sessions/{kernel_id}")).json()
    return bool(detail["status"] == "RUNNING" and detail["kernels"][0]["generation"] == 2)


async def is_at(server: RunningServer, session_id: str, status: str) -> bool:
    detail = (await server.get(f"backendai/v1/sessions/{session_id}")).json()
    return bool(detail["status"] == status)


def relay_of(node: Node) -> psutil.Process:
    (relay,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if "backendai_jupyter.agent.relay" in (words := process.info["cmdline"] or ())
        and str(node.machine.run_dir) in " ".join(words)
    )
    return relay
