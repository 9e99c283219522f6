"""A kernel that dies is noticed at once, by everybody, and comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from docker import APIClient

from tests.acceptance.channels import Channels, started
from tests.acceptance.events import Event, Events
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

log = logging.getLogger(__name__)

AT_ONCE_S = 2.5  # below the 3 s of Jupyter's own poll; what is measured is logged
PROCESS = "c.BackendAIAgent.runtime = 'process'\n"


async def test_everybody_hears_at_once_that_a_kernel_was_killed(
    server_config: str, short_tmp_path: Path
) -> None:
    async with RunningServer(short_tmp_path, config=server_config) as server:
        await dies(server, lambda kernel_id: program(kernel_id).kill())


@pytest.mark.docker
async def test_everybody_hears_at_once_that_a_container_was_killed(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {engine.url!r}\n"

    def kill(kernel_id: str) -> None:
        with contextlib.closing(APIClient(engine.url, version="auto")) as client:
            for found in client.containers():
                if kernel_id in found["Labels"].values():
                    client.kill(found["Id"])

    async with RunningServer(short_tmp_path, config=config) as server:
        await dies(server, kill)


async def dies(server: RunningServer, kill: Callable[[str], None]) -> None:
    """Kill a kernel while a cell runs, and see that everybody hears of it and it comes back."""
    kernel_id = await started(server)
    async with Channels.open(server, kernel_id) as channels, Events.follow(server) as events:
        await channels.run("x = 1")
        running = asyncio.create_task(heard(channels))
        await eventually(lambda: is_busy(server, kernel_id))
        await asyncio.to_thread(kill, kernel_id)
        killed_at = time.time()

        async def said() -> dict[str, Any] | None:
            model: dict[str, Any] = (await server.get(f"api/kernels/{kernel_id}")).json()
            return model if model.get("reason") else None

        model = await eventually(said)
        after_s = {"GET": time.time() - killed_at}
        assert model is not None
        assert "SIGKILL" in model["reason"]
        assert model["execution_state"] == "restarting"
        told = await events.until(lambda data: data["status"] == "RESTARTING")
        after_s["event"] = told.seen_at - killed_at
        assert told.data["exit"] == {
            "reason": "signalled", "cause": "", "code": 137, "message": told.data["reason"]
        }  # fmt: skip
        heard_at = await running
        after_s |= {name: at - killed_at for name, at in heard_at.items()}
        back = await events.until(lambda d: d["status"] == "RUNNING" and d["generation"] == 2)
        log.info("seconds after the kill: %s; up again: %.3f", after_s, back.seen_at - killed_at)
        assert max(after_s.values()) < AT_ONCE_S, after_s
        assert await channels.run("print('x' in globals())") == "False\n"


async def is_busy(server: RunningServer, kernel_id: str) -> bool:
    model = (await server.get(f"api/kernels/{kernel_id}")).json()
    return bool(model["execution_state"] == "busy")


async def heard(channels: Channels) -> dict[str, float]:
    """Run an endless cell; return when the websocket told of its error, and of the restart."""
    assert await channels.run("import time; time.sleep(600)") == "KernelDied"
    found = {"error": time.time()}
    while (await channels.next())["content"].get("execution_state") != "restarting":
        """Other messages are of no interest."""
    found["websocket"] = time.time()
    return found


async def test_a_kernel_that_dies_again_and_again_is_started_no_faster_than_by_jupyter(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        kernel_id = await started(server)
        async with Events.follow(server) as events:
            asked_at = []
            for generation in (2, 3):
                program(kernel_id).kill()
                asked_at.append((await asked_for(events, generation)).data["at"])
                await asked_for(events, generation, and_status="RUNNING")
            assert asked_at[1] - asked_at[0] > 2.9


@pytest.mark.parametrize("outlives", [False, True])
async def test_the_server_stops_while_a_kernel_is_started_again(
    short_tmp_path: Path, outlives: bool
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=outlives) as server:
        kernel_id = await started(server)
        async with Events.follow(server) as events:
            program(kernel_id).kill()
            await asked_for(events, generation=2)
            server.signal(signal.SIGTERM)
        assert await server.wait() == 0
        if not outlives:
            return
        await server.start()
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [kernel_id]
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print(6 * 7)") == "42\n"


async def test_a_kernel_whose_session_is_ended_is_dead_at_once(short_tmp_path: Path) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        kernel_id = await started(server)
        async with Channels.open(server, kernel_id) as channels:
            await channels.run("1")
            ended_at = time.time()
            await server.delete(f"backendai/v1/sessions/{kernel_id}")
            while (await channels.next())["content"].get("execution_state") != "dead":
                """Other messages are of no interest."""
            log.info("seconds until it was said to be dead: %.3f", time.time() - ended_at)
            assert time.time() - ended_at < AT_ONCE_S

        async def gone() -> bool:
            return (await server.get(f"api/kernels/{kernel_id}")).status_code == 404

        await eventually(gone)


async def asked_for(events: Events, generation: int, *, and_status: str = "") -> Event:
    def holds(data: dict[str, Any]) -> bool:
        return data["generation"] == generation and and_status in {"", data["status"]}

    return await events.until(holds)


def program(kernel_id: str) -> psutil.Process:
    """Return the kernel's program, the innermost where a sandbox is around it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BACKENDAI_KERNEL_ID") != kernel_id:
                continue
            if "ipykernel_launcher" in process.cmdline():
                found.append(process)
    return max(found, key=lambda process: process.create_time())
