"""A start that is refused: the same answer and one line in the log, whichever way it came."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.channels import OURS
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config="c.BackendAIAgent.runtime = 'process'\n") as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


async def by_kernels(server: RunningServer, asked: object) -> httpx.Response:
    return await server.post("api/kernels", json={"name": OURS, "backendai": asked})


async def by_sessions(server: RunningServer, asked: object) -> httpx.Response:
    body = {"path": "data/new.ipynb", "type": "notebook", "kernel": {"name": OURS}}
    return await server.post("api/sessions", json={**body, "backendai": asked})


async def by_change_of_kernel(server: RunningServer, asked: object) -> httpx.Response:
    body = {"path": "data/old.ipynb", "type": "notebook", "kernel": {"name": OURS}}
    session = (await server.post("api/sessions", json=body)).json()
    change = {"kernel": {"name": OURS}, "backendai": asked}
    answer = await server.request("PATCH", f"api/sessions/{session['id']}", json=change)
    same = (await server.get(f"api/sessions/{session['id']}")).json()
    assert same["kernel"]["id"] == session["kernel"]["id"]
    return answer


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(
            {"memory": 1}, {"code": "invalid-input", "field": "backendai.memory"}, id="malformed"
        ),
        pytest.param(
            {"mounts": ["nothing"]},
            {"code": "invalid-input", "field": "backendai.mounts"},
            id="unknown folder",
        ),
        pytest.param(
            {"resources": {"cpu": 5000}}, {"code": "never-fits", "slot": "cpu"}, id="too large"
        ),
    ],
)
@pytest.mark.parametrize("ask", [by_kernels, by_sessions, by_change_of_kernel])
async def test_a_refusal_is_one_answer_and_one_line_without_a_traceback(
    server: RunningServer, ask: Any, asked: object, expected: dict[str, str]
) -> None:
    before = len(server.log)
    answer = await ask(server, asked)
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert {key: body.get(key) for key in expected} == expected
    logged = server.log[before:]
    assert "Traceback" not in logged
    assert len([line for line in logged.splitlines() if body["message"] in line]) == 1, logged


async def test_a_kernel_that_does_not_exist_is_answered_by_jupyter_as_ever(
    server: RunningServer,
) -> None:
    body = {"path": "data/other.ipynb", "type": "notebook", "kernel": {"name": OURS}}
    session = (await server.post("api/sessions", json=body)).json()
    change = {"kernel": {"name": "cobol"}}
    answer = await server.request("PATCH", f"api/sessions/{session['id']}", json=change)
    assert answer.status_code == 501
    assert answer.json()["short_message"] == "Error starting kernel cobol"
