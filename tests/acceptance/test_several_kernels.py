"""Sessions of several kernels, as a stock client of a server meets them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import KernelClient, printed
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CONFIG = "c.BackendAIAgent.runtime = 'process'\n"
SMALL = {"resources": {"cpu": 0.2, "mem": "256m"}}
WHO = "import os; print(os.environ['BACKENDAI_CLUSTER_HOST'])"
SAYS_HELLO = ["/bin/sh", "-c", "echo hello from $BACKENDAI_CLUSTER_HOST; exec sleep 600"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="bj-") as root:
        async with RunningServer(Path(root), config=CONFIG) as running:
            yield running


async def start(server: RunningServer, **options: object) -> dict[str, Any]:
    """Start a session of two kernels; return it as our REST API has it."""
    asked = {**SMALL, "cluster_size": 2, **options}
    body = {"name": "backendai-python", "backendai": asked}
    answer = await server.post("api/kernels", json=body)
    assert answer.status_code == 201, (answer.text, server.log)
    return await read(server, answer.json()["backendai"]["session_id"])


async def read(server: RunningServer, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await server.get(f"backendai/v1/sessions/{session_id}")).json()
    return found


async def end(server: RunningServer, session: dict[str, Any]) -> None:
    await server.delete(f"api/kernels/{session['kernels'][0]['id']}")
    await eventually(lambda: is_over(server, session), within_s=30)


async def is_over(server: RunningServer, session: dict[str, Any]) -> bool:
    return (await read(server, session["id"]))["ended_at"] is not None


async def run(server: RunningServer, kernel_id: str, code: str) -> str:
    async with KernelClient.open(server.url, server.token, kernel_id) as client:
        request = await client.execute(code)
        messages = await client.until_done(request)
    return printed([message for message in messages if message.parent.get("msg_id") == request])


async def test_every_kernel_answers_by_its_id(server: RunningServer) -> None:
    session = await start(server, startup={"sub": SAYS_HELLO})
    assert session["status"] == "RUNNING"
    assert [k["hostname"] for k in session["kernels"]] == ["main1", "sub1"]
    listed = (await server.get("api/kernels")).json()
    by_id = {model["id"]: model["backendai"]["hostname"] for model in listed}
    assert by_id == {k["id"]: k["hostname"] for k in session["kernels"]}
    for kernel in session["kernels"]:
        assert await run(server, kernel["id"], WHO) == f"{kernel['hostname']}\n"

    async def log() -> str:
        answer = await server.get(f"backendai/v1/sessions/{session['id']}/logs?host=sub1")
        return str(answer.json()["log"])

    assert "hello from sub1" in await eventually(log)
    await end(server, session)
    assert (await server.get("api/kernels")).json() == []


async def test_each_kernel_is_restarted_by_itself(server: RunningServer) -> None:
    session = await start(server)
    main, sub = (kernel["id"] for kernel in session["kernels"])
    for kernel_id in (main, sub):
        assert await run(server, kernel_id, "x = 6") == ""
    assert (await server.post(f"api/kernels/{main}/restart")).status_code == 200
    assert await run(server, main, "print('x' in globals())") == "False\n"
    assert await run(server, sub, "print(x * 7)") == "42\n"
    assert (await server.post(f"api/kernels/{sub}/restart")).status_code == 200
    assert await run(server, sub, "print('x' in globals())") == "False\n"
    assert (await server.post(f"api/kernels/{sub}/interrupt")).status_code == 204
    assert (await read(server, session["id"]))["status"] == "RUNNING"
    await end(server, session)


@pytest.mark.parametrize("policy", ["end", "degraded"])
async def test_the_policy_says_what_becomes_of_main_when_a_sub_dies(
    server: RunningServer, policy: str
) -> None:
    session = await start(server, failure_policy=policy)
    main, sub = (kernel["id"] for kernel in session["kernels"])
    async with KernelClient.open(server.url, server.token, sub) as client:
        await client.execute("import os; os._exit(3)")
        await client.until(lambda m: m.content.get("execution_state") == "dead")
    if policy == "end":
        await eventually(lambda: is_over(server, session), within_s=30)
        assert "sub1 has ended" in (await read(server, session["id"]))["status_reason"]
        assert (await server.get(f"api/kernels/{main}")).status_code == 404
        return

    async def only_main() -> bool:
        return [model["id"] for model in (await server.get("api/kernels")).json()] == [main]

    await eventually(only_main, within_s=30)
    now = await read(server, session["id"])
    assert (now["status"], now["status_reason"][:25]) == ("RUNNING", "It goes on without sub1. ")
    assert await run(server, main, "print(1)") == "1\n"
    await end(server, session)


async def test_a_dry_run_says_which_agents(server: RunningServer) -> None:
    body = {"backendai": {**SMALL, "cluster_size": 3}}
    answer = await server.post("backendai/v1/sessions?dry_run=true", json=body)
    assert set(answer.json()["agents"]) == {"main1", "sub1", "sub2"}, answer.text


async def test_all_are_there_again_after_a_restart_of_the_server(short_tmp_path: Path) -> None:
    async with RunningServer(short_tmp_path, config=CONFIG, kernels_outlive=True) as server:
        session = await start(server)
        ids = [kernel["id"] for kernel in session["kernels"]]
        await asyncio.gather(*(run(server, kernel_id, "x = 6") for kernel_id in ids))
        await server.close()
        await server.start()
        assert {m["id"] for m in (await server.get("api/kernels")).json()} == set(ids)
        for kernel_id in ids:
            assert await run(server, kernel_id, "print(x * 7)") == "42\n"
