"""Batch sessions through the front door: the command, the REST API, and a server's folders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell

from tests.acceptance.batches import notebook_in, printed_in, put_notebook, start, until_over
from tests.acceptance.folders import put, read
from tests.acceptance.test_operator import jupyter_backendai
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(180)

PARAMETERS = new_code_cell("alpha = 1", metadata={"tags": ["parameters"]})
CONFIG = "c.BackendAIAgent.runtime = 'process'\n"


@pytest.fixture
async def server(short_tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with RunningServer(short_tmp_path, config=CONFIG) as running:
        yield running


async def test_a_notebook_runs_from_the_command_line_and_its_result_stays(
    server: RunningServer,
) -> None:
    await put_notebook(server, "data/nb.ipynb", PARAMETERS, "print(alpha, open('given').read())")
    await put(server, "data/given", "beside it")
    done = await jupyter_backendai(
        *("run", "data/nb.ipynb", "--cpu", "1", "--mem", "1g", "-p", "alpha=0.1"),
        *("--out", "out.ipynb", "--log", "data/run.log"),
        env=server.env,
    )
    assert done.code == 0, done.err
    assert "cell 1 of 3" in done.err or "Done: 3 cells" in done.err
    assert "TERMINATED, done: Done: 3 cells" in done.err
    assert printed_in(await notebook_in(server, "data/out.ipynb")) == ["0.1 beside it\n"]
    assert "0.1 beside it" in await read(server, "data/run.log")
    (agent,) = (await server.get("backendai/v1/agents")).json()
    assert set(agent["used"].values()) == {"0"}
    (session,) = (await server.get("backendai/v1/sessions")).json()
    logs = await server.get(f"backendai/v1/sessions/{session['id']}/logs")
    assert "cell 3 of 3" in logs.json()["log"]


async def test_a_notebook_runs_cells_on_all_kernels_of_its_session(server: RunningServer) -> None:
    host = "import os; print(os.environ['BACKENDAI_CLUSTER_HOST'])"
    await put_notebook(server, "data/nb.ipynb", f"%%backendai all\n{host}")
    done = await jupyter_backendai(
        *("run", "data/nb.ipynb", "--cluster-size", "2", "--cpu", "0.2"), env=server.env
    )
    assert done.code == 0, done.err
    said = "".join(printed_in(await notebook_in(server, "data/nb.out.ipynb")))
    assert sorted(said.splitlines()) == ["[main1] main1", "[sub1] sub1"]


async def test_a_failing_cell_is_the_exit_code_and_says_where(server: RunningServer) -> None:
    await put_notebook(server, "data/nb.ipynb", "print('one')", "raise ValueError('bad')")
    done = await jupyter_backendai("run", "data/nb.ipynb", "--json", env=server.env)
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["type"], found["batch"]["end"]) == ("batch", "failed")
    assert found["kernels"][0]["exit"]["message"] == "It failed in cell 2 of 2: ValueError: bad"
    assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == ["one\n"]


async def test_a_command_is_detached_and_ended(server: RunningServer) -> None:
    done = await jupyter_backendai(
        "run", "--detach", "--json", "--", "sh", "-c", "sleep 1000", env=server.env
    )
    assert done.code == 0, done.err
    session_id = json.loads(done.out)["id"]
    ended = await jupyter_backendai("session", "terminate", session_id, env=server.env)
    assert ended.code == 0
    over = await until_over(server, session_id)
    assert over["batch"]["end"] == "cancelled"


async def test_what_lies_in_no_folder_is_refused_with_what_to_do_or_uploaded(
    server: RunningServer, tmp_path: Path
) -> None:
    local = tmp_path / "mine.ipynb"
    local.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    refused = await jupyter_backendai("run", str(local), env=server.env)
    assert (refused.code, "--upload FOLDER" in refused.err) == (1, True)
    done = await jupyter_backendai("run", str(local), "--upload", "data", env=server.env)
    assert done.code == 0, done.err
    assert await notebook_in(server, "data/mine.out.ipynb")


async def test_what_cannot_run_is_refused_naming_the_field(server: RunningServer) -> None:
    """F44: a time limit of nothing is refused, not taken for none."""
    await put_notebook(server, "data/nb.ipynb", "1")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"notebook": "data/nb.ipynb", "timeout": 0}, "batch.timeout"),
        ({"notebook": "data/missing.ipynb"}, "batch.notebook"),
        ({"command": ["true"], "retry_on": ["cancelled"]}, "batch.retry_on"),
        ({}, "batch"),
    ]
    for batch, field in wrong:
        answer = await start(server, **batch)
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


async def test_without_a_server_a_backend_of_the_commands_own_runs_it(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=CONFIG) as server:
        await put_notebook(server, "data/nb.ipynb", "print('by itself')")
    done = await jupyter_backendai("run", "data/nb.ipynb", env=server.env)
    assert done.code == 0, done.err
    refused = await jupyter_backendai("run", "data/nb.ipynb", "--detach", env=server.env)
    assert (refused.code, "no Jupyter Server runs here" in refused.err) == (1, True)
    async with RunningServer(short_tmp_path, config=CONFIG) as server:
        assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == ["by itself\n"]
