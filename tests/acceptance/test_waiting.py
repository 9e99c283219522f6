"""Waiting for a kernel is honest: one sees for what, may give up, and never waits for ever."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.acceptance.channels import OURS, started
from tests.acceptance.events import Events
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

log = logging.getLogger(__name__)

COMMAND = str(Path(sys.executable).with_name("jupyter-backendai"))
PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
SILENT = "silent"
CANCELLED = "Its end was asked for while it started."


@asynccontextmanager
async def running(root: Path, limits: str = "{}", config: str = PROCESS) -> AsyncIterator[Any]:
    """A server that also offers a kernel which never answers."""
    spec = {
        "argv": ["sh", "-c", "sleep 600", "{connection_file}"],
        "display_name": "Silent",
        "language": "python",
        "metadata": {
            "kernel_provisioner": {
                "provisioner_name": "backendai-provisioner",
                "config": {"image": "python", "resources": {"cpu": 1, "mem": "256m"}},
            }
        },
    }
    directory = root / "data" / "kernels" / SILENT
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(json.dumps(spec))
    config += f"c.BackendAI.start_timeouts = {limits}\n"
    async with RunningServer(root, config=config) as server:
        yield server


async def test_a_phase_that_takes_too_long_is_named(short_tmp_path: Path) -> None:
    async with running(short_tmp_path, "{'CREATING': 2}") as server:
        began_at = time.monotonic()
        answer = await server.post("api/kernels", json={"name": SILENT})
        log.info("answered after %.3f s", time.monotonic() - began_at)
        sentence = (
            "Gave up after 2 s in CREATING (step answer): "
            "Waiting for the first answer of its program."
        )
        assert (answer.status_code, answer.json()["message"]) == (504, sentence)
        assert answer.json()["code"] == "timed-out"
        await nothing_is_left(server)
        (session,) = await sessions(server)
        assert session["status_reason"] == sentence
        assert session["kernels"][0]["exit"]["reason"] == "timed-out"
        assert sentence in [step["reason"] for step in (await detail(server, session))["history"]]


async def test_waiting_for_room_has_a_limit_where_one_is_set(short_tmp_path: Path) -> None:
    async with running(short_tmp_path, "{'PENDING': 2}") as server:
        await fill(server)
        answer = await server.post("api/kernels", json={"name": OURS})
        assert answer.status_code == 504
        sentence = "Gave up after 2 s in PENDING: Waiting for room: cpu "
        assert answer.json()["message"].startswith(sentence)
        ended = await sessions(server, status="CANCELLED")
        assert [session["status_reason"] for session in ended] == [answer.json()["message"]]


async def test_what_waits_says_its_place_and_a_dry_run_says_what_would_happen(
    short_tmp_path: Path,
) -> None:
    async with running(short_tmp_path) as server:
        alone = await try_out(server)
        (agent,) = (await server.get("backendai/v1/agents")).json()
        assert (alone["agents"], alone["pending"]) == ({"main1": agent["id"]}, None)
        await fill(server)
        starting = asyncio.create_task(server.post("api/kernels", json={"name": OURS}))
        waiting = await one_in(server, "PENDING")

        async def place() -> dict[str, Any] | None:
            found: dict[str, Any] | None = (await detail(server, {"id": waiting}))["pending"]
            return found

        pending = await eventually(place)
        assert pending is not None
        assert (pending["why"], pending["position"]) == ("room", 1)
        assert pending["shortfall"]["cpu"] == "1"
        behind = await try_out(server)
        assert (behind["agents"], behind["resource_group"]) == ({}, "default")
        assert (behind["pending"]["why"], behind["pending"]["position"]) == ("turn", 2)
        assert len(await sessions(server)) == 2
        url = "backendai/v1/sessions"
        for answer, field in (
            (await server.post(url, json={"type": "batch"}), "batch"),
            (await server.post(f"{url}?dry_run=true", json={"kernelspec": "x"}), "kernelspec"),
            (
                await server.post(
                    f"{url}?dry_run=true", json={"backendai": {"resource_group": "gpu"}}
                ),
                "backendai.resource_group",
            ),
        ):
            assert (answer.status_code, answer.json()["field"]) == (400, field)
        await give_up(starting)


async def test_the_total_has_one_too(short_tmp_path: Path) -> None:
    config = f"{PROCESS}c.BackendAI.start_timeout_s = 2\n"
    async with running(short_tmp_path, config=config) as server:
        answer = await server.post("api/kernels", json={"name": SILENT})
        assert answer.json()["message"].startswith(
            "Gave up after 2 s in all, then in CREATING (step answer): "
        )


async def test_one_sees_what_a_start_waits_for(short_tmp_path: Path) -> None:
    async with running(short_tmp_path) as server, Events.follow(server) as events:
        starting = asyncio.create_task(server.post("api/kernels", json={"name": SILENT}))
        event = await events.until(lambda d: d["step"] == "answer")
        assert event.data["status"] == "CREATING"
        assert event.data["reason"] == "Waiting for the first answer of its program."
        (session,) = await sessions(server)
        kernel = (await detail(server, session))["kernels"][0]
        assert (kernel["status"], kernel["step"]) == ("CREATING", "answer")
        assert kernel["status_reason"] == event.data["reason"]
        assert kernel["status_since"] == event.data["since"]
        assert abs(time.time() - event.data["since"]) < 30
        await give_up(starting)


@pytest.mark.parametrize("phase", ["PENDING", "CREATING"])
@pytest.mark.parametrize("by", ["request", "command"])
async def test_a_start_can_be_given_up(short_tmp_path: Path, phase: str, by: str) -> None:
    async with running(short_tmp_path) as server:
        name = SILENT
        if phase == "PENDING":
            name = OURS
            await fill(server)
        starting = asyncio.create_task(server.post("api/kernels", json={"name": name}))
        session_id = await one_in(server, phase)
        asked_at = time.monotonic()
        if by == "request":
            await server.delete(f"backendai/v1/sessions/{session_id}")
        else:
            command = [COMMAND, "session", "terminate", session_id]
            run = await asyncio.create_subprocess_exec(*command, env=server.env)
            assert await run.wait() == 0
        answer = await starting
        log.info("%s by %s: answered after %.3f s", phase, by, time.monotonic() - asked_at)
        assert (answer.status_code, answer.json()["message"]) == (409, CANCELLED)
        assert time.monotonic() - asked_at < 10
        assert session_id not in [k["id"] for k in (await server.get("api/kernels")).json()]
        if phase == "CREATING":
            await nothing_is_left(server)


@pytest.mark.parametrize("phase", ["PENDING", "CREATING"])
@pytest.mark.parametrize("place", ["kernels", "sessions"])
async def test_a_start_ends_with_the_connection_of_who_asked(
    short_tmp_path: Path, phase: str, place: str
) -> None:
    async with running(short_tmp_path) as server:
        name = SILENT
        if phase == "PENDING":
            name = OURS
            await fill(server)
        body: dict[str, Any] = {"name": name}
        if place == "sessions":
            body = {"path": "data/a.ipynb", "type": "notebook", "kernel": {"name": name}}
        headers = {"Authorization": f"token {server.token}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            starting = asyncio.create_task(client.post(f"api/{place}", json=body))
            session_id = await one_in(server, phase)
            await give_up(starting)

        async def over() -> bool:
            found = (await server.get(f"backendai/v1/sessions/{session_id}")).json()
            return bool(found["status"] in {"CANCELLED", "TERMINATED"})

        await eventually(over)
        kernels = {k["id"] for k in (await server.get("api/kernels")).json()}
        assert session_id not in kernels
        await eventually(lambda: server.log.count("closed the connection while it started") == 1)
        assert "Traceback" not in server.log
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0


@pytest.mark.docker
async def test_an_engine_that_hangs_is_a_phase_that_runs_out(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {engine.url!r}\n"
    async with running(short_tmp_path, "{'CREATING': 3}", config=config) as server:
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            began_at = time.monotonic()
            answer = await server.post("api/kernels", json={"name": OURS})
            log.info("answered after %.3f s", time.monotonic() - began_at)
            assert answer.status_code == 504
            assert answer.json()["message"] == (
                "Gave up after 3 s in CREATING (step container): Starting its program."
            )
        finally:
            os.kill(engine.pid, signal.SIGCONT)
        await nothing_is_left(server, within_s=90)
        await started(server)


async def give_up(request: asyncio.Task[httpx.Response]) -> None:
    """Stop waiting for an answer, and let the connection be closed."""
    request.cancel()
    await asyncio.wait([request])


async def fill(server: RunningServer) -> None:
    """Leave no room for another kernel."""
    (agent,) = (await server.get("backendai/v1/agents")).json()
    await started(server, backendai={"resources": {"cpu": float(agent["capacity"]["cpu"])}})


async def sessions(server: RunningServer, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.get("backendai/v1/sessions", params=query)).json()
    return found


async def try_out(server: RunningServer) -> dict[str, Any]:
    answer = await server.post("backendai/v1/sessions?dry_run=true", json={"kernelspec": OURS})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def detail(server: RunningServer, session: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await server.get(f"backendai/v1/sessions/{session['id']}")).json()
    return found


async def one_in(server: RunningServer, status: str) -> str:
    """Return the id of the session in this status, when there is one."""
    (session,) = await eventually(lambda: sessions(server, status=status))
    return str(session["id"])


async def nothing_is_left(server: RunningServer, *, within_s: float = 20) -> None:
    """Wait until no session lives, no slot is taken and no program of a kernel is there."""

    async def over() -> bool:
        (agent,) = (await server.get("backendai/v1/agents")).json()
        is_free = all(float(amount) == 0 for amount in agent["used"].values())
        return bool(is_free and not any(map(is_silent, psutil.process_iter())))

    await eventually(over, within_s=within_s)
    assert {s["status"] for s in await sessions(server)} <= {"TERMINATED", "CANCELLED", "ERROR"}
    assert (await server.get("api/kernels")).json() == []


def is_silent(process: psutil.Process) -> bool:
    try:
        return bool(process.cmdline()[:3] == ["sh", "-c", "sleep 600"])
    except psutil.Error:
        return False
