"""Kernels outlive their server, however it ends, and the next one has them at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.channels import OURS, Channels, started
from tests.acceptance.conftest import RUNTIMES
from tests.engine import PrivateEngine
from tests.server import RunningServer

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
ENDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture(params=RUNTIMES)
def config(request: pytest.FixtureRequest) -> str:
    lines = [f"c.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    return "\n".join(lines)


async def restart(server: RunningServer, how: signal.Signals) -> None:
    """End the server and start another over the same directories."""
    server.signal(how)
    await server.wait()
    await server.start()


@pytest.mark.parametrize("how", ENDS)
async def test_a_kernel_goes_on_with_its_variables(
    config: str, short_tmp_path: Path, how: signal.Signals
) -> None:
    async with RunningServer(short_tmp_path, config=config, kernels_outlive=True) as server:
        body = {"path": "data/a.ipynb", "type": "notebook", "kernel": {"name": OURS}}
        session = (await server.post("api/sessions", json=body)).json()
        kernel_id = session["kernel"]["id"]
        async with Channels.open(server, kernel_id) as channels:
            await channels.run("import os; x = os.getpid()")
        await restart(server, how)
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [kernel_id]
        again = (await server.get("api/sessions")).json()
        assert [(s["id"], s["path"], s["kernel"]["id"]) for s in again] == [
            (session["id"], "data/a.ipynb", kernel_id)
        ]
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print(x == os.getpid())") == "True\n"
