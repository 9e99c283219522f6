"""Batch sessions in containers of the images that we ship, and of one that cannot run them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell

from tests.acceptance.batches import (
    notebook_in,
    printed_in,
    put_notebook,
    session,
    start,
    until_over,
)
from tests.engine import PrivateEngine
from tests.server import RunningServer

pytestmark = [pytest.mark.timeout(240, func_only=True), pytest.mark.docker]


@pytest.fixture
async def server(short_tmp_path: Path, engine: PrivateEngine) -> AsyncIterator[RunningServer]:
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {engine.url!r}\n"
    async with RunningServer(short_tmp_path, config=config) as running:
        yield running


NOTEBOOKS = {
    "python": ("alpha = 1", "print(alpha, name)", "0.5 a 'b'\n"),
    "r": ("alpha <- 1", "cat(alpha, name, '\\n')", "0.5 a 'b' \n"),
}


@pytest.mark.parametrize("language", NOTEBOOKS)
async def test_notebooks_of_both_images_run_with_their_parameters(
    server: RunningServer, language: str
) -> None:
    first, second, printed = NOTEBOOKS[language]
    tagged = new_code_cell(first, metadata={"tags": ["parameters"]})
    await put_notebook(server, "data/nb.ipynb", tagged, second)
    batch: dict[str, Any] = {
        "notebook": "data/nb.ipynb",
        "parameters": {"alpha": 0.5, "name": "a 'b'"},
    }
    answer = await start(server, f"backendai-{language}", **batch)
    assert answer.is_success, answer.text
    over = await until_over(server, answer.json()["id"])
    assert over["batch"]["end"] == "done", over
    assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == [printed]


async def test_a_notebook_that_takes_too_much_memory_says_so(server: RunningServer) -> None:
    await put_notebook(server, "data/nb.ipynb", "1", "x = bytearray(4 << 30)")
    answer = await start(server, notebook="data/nb.ipynb")
    over = await until_over(server, answer.json()["id"])
    ending = over["kernels"][0]["exit"]
    assert (over["batch"]["end"], ending["reason"]) == ("failed", "oom-killed"), over
    assert ending["message"].endswith("It was at cell 2 of 2.")
    assert (await session(server, over["id"]))["batch"]["progress"]["cell"] == 2
