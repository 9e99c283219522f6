"""What one does with sessions that wait, by commands, at a server that runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import eventually
from tests.server import RunningServer

JUPYTER = Path(sys.executable).parent / "jupyter"
PROCESS = "c.BackendAIAgent.runtime = 'process'\n"


@pytest.fixture
async def server(short_tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with RunningServer(short_tmp_path, config=PROCESS) as running:
        yield running


async def run(server: RunningServer, *words: str, code: int = 0) -> str:
    """Return what a command prints; its exit code must be ``code``."""
    process = await asyncio.create_subprocess_exec(
        *(str(JUPYTER), "backendai", "session", *words),
        env=server.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return out.decode() + err.decode()


async def made(server: RunningServer, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await run(server, "create", "--json", *words))
    return answer


async def test_a_chain_of_sessions_is_asked_for_waits_is_watched_and_ends(
    server: RunningServer,
) -> None:
    first = await made(server, "--name", "prepare", "--cpu", "0.1")
    second = await made(server, "--name", "train", "--cpu", "0.1", "--depends-on", "prepare")
    assert [one["id"] for one in second["depends_on"]] == [first["id"]]
    watching = asyncio.create_task(run(server, "watch", second["id"]))

    async def listed() -> list[str]:
        return [one["id"] for one in (await server.get("api/kernels")).json()]

    await eventually(lambda: _contains(listed, first["id"]), within_s=30)
    (waiting,) = json.loads(await run(server, "queue", "--json"))
    assert (waiting["id"], waiting["pending"]["why"]) == (second["id"], "parent")
    assert "Waiting for the end of session 'prepare'" in await run(server, "queue")
    await run(server, "terminate", first["id"])
    await eventually(lambda: _contains(listed, second["id"]), within_s=30)
    await run(server, "terminate", second["id"])
    said = (await watching).splitlines()
    assert said[0].startswith("PENDING")
    assert any(line.startswith("RUNNING") for line in said)
    assert said[-1].startswith("TERMINATED")


async def test_a_dry_run_says_the_agent_and_makes_nothing(server: RunningServer) -> None:
    assert "It would start now: main1 on" in await run(server, "create", "--dry-run")
    refused = await run(server, "create", "--dry-run", "-r", "npu.device=1", code=1)
    assert "No agent has the slot npu.device" in refused
    assert (await server.get("backendai/v1/sessions")).json() == []


async def test_what_is_cancelled_because_of_another_is_watched_to_exit_code_1(
    server: RunningServer,
) -> None:
    first = await made(server, "--name", "prepare", "--not-before", "2100-01-01T00:00:00+00:00")
    second = await made(server, "--depends-on", first["id"])
    await run(server, "terminate", first["id"])
    said = await run(server, "watch", second["id"], code=1)
    assert "CANCELLED" in said
    assert "'prepare'" in said


async def _contains(listed: Any, wanted: str) -> bool:
    return wanted in await listed()
