"""Kernels outlive their server, however it ends, and the next one has them at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.acceptance.channels import OURS, Channels, started
from tests.acceptance.conftest import RUNTIMES
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

COMMAND = str(Path(sys.executable).with_name("jupyter-backendai"))
PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
ENDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture(params=RUNTIMES)
def config(request: pytest.FixtureRequest) -> str:
    lines = [f"c.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    return "\n".join(lines)


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
        await server.restart(how)
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [kernel_id]
        again = (await server.get("api/sessions")).json()
        assert [(s["id"], s["path"], s["kernel"]["id"]) for s in again] == [
            (session["id"], "data/a.ipynb", kernel_id)
        ]
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print(x == os.getpid())") == "True\n"


async def test_a_kernel_that_died_meanwhile_is_said_so_and_started_again(
    config: str, short_tmp_path: Path
) -> None:
    """F25: what ended while no server ran is noticed by the next one."""
    async with RunningServer(short_tmp_path, config=config, kernels_outlive=True) as server:
        kernel_id = await started(server)
        async with Channels.open(server, kernel_id) as channels:
            later = "import os, threading; threading.Timer(1, os._exit, [7]).start(); x = 1"
            await channels.run(later)
        server.signal(signal.SIGKILL)
        await server.wait()
        await eventually(lambda: not lives(kernel_id), within_s=20)
        await server.start()
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [kernel_id]

        async def generation() -> int:
            session = (await server.get(f"backendai/v1/sessions/{kernel_id}")).json()
            return int(session["status"] == "RUNNING" and len(reasons(session)))

        await eventually(generation, within_s=20)
        session = (await server.get(f"backendai/v1/sessions/{kernel_id}")).json()
        assert any("code 7" in reason for reason in reasons(session)), session["history"]
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print('x' in globals())") == "False\n"


def reasons(session: dict[str, Any]) -> list[str]:
    return [step["reason"] for step in session["history"] if step["after"] == "RESTARTING"]


def lives(kernel_id: str) -> bool:
    """Whether there is a process with this kernel's environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("BACKENDAI_KERNEL_ID") == kernel_id:
                return True
        except psutil.Error:
            continue
    return False


async def test_a_start_under_way_ends_with_its_server_and_holds_nothing(
    short_tmp_path: Path,
) -> None:
    """F2, F13: nobody waits for it any more."""
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
        body = {"name": OURS, "backendai": {"resources": {"cpu": 16}}}
        first = await started(server, backendai=body["backendai"])

        async def waits() -> bool:
            found = (await server.get("backendai/v1/sessions?status=PENDING")).json()
            return len(found) == 1

        headers = {"Authorization": f"token {server.token}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            waiting = asyncio.ensure_future(client.post("api/kernels", json=body))
            await eventually(waits)
            await server.restart(signal.SIGKILL)
            assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], Exception)
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [first]

        async def cancelled() -> list[str]:
            found = (await server.get("backendai/v1/sessions?status=CANCELLED")).json()
            return [session["status_reason"] for session in found]

        told = await eventually(cancelled)
        assert told == ["Its server ended before the kernel had started."]


async def test_a_batch_run_does_not_mind_a_server_that_is_killed(short_tmp_path: Path) -> None:
    code = ["import os, time; x = os.getpid()", *["time.sleep(0.5); print(x == os.getpid())"] * 12]
    notebook = new_notebook(cells=[new_code_cell(source) for source in code])
    notebook.metadata["kernelspec"] = {"name": OURS, "display_name": OURS}
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
        path = server.root / "work" / "long.ipynb"
        path.write_text(nbformat.writes(notebook))
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
        run = await asyncio.create_subprocess_exec(
            *command, "--output", "done.ipynb", str(path), env=server.env
        )

        async def runs() -> bool:
            found = (await server.get("backendai/v1/sessions?status=RUNNING")).json()
            return len(found) == 1

        await eventually(runs, within_s=30)
        for _ in range(2):
            await server.restart(signal.SIGKILL)
        assert await asyncio.wait_for(run.wait(), 60) == 0
        done = nbformat.read(server.root / "work" / "done.ipynb", as_version=4)
        assert [c.outputs[0].text for c in done.cells[1:]] == ["True\n"] * 12


async def test_kernels_of_a_stopped_server_are_ended_from_the_command_line(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
        kernel_id, other = await started(server), await started(server)
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0
        command = [COMMAND, "session", "terminate", kernel_id]
        ending = await asyncio.create_subprocess_exec(*command, env=server.env)
        assert await ending.wait() == 0
        assert (lives(kernel_id), lives(other)) == (False, True)
        await server.start()
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [other]
