"""Batch runs from inside a folder: the same files as in the file browser, without a server."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.acceptance.conftest import RUNTIMES
from tests.acceptance.folders import make_directory, put, read
from tests.acceptance.test_examples import jupyter_execute, papermill
from tests.engine import PrivateEngine
from tests.server import RunningServer

RUN_WITHIN_S = 90.0
pytestmark = pytest.mark.timeout(RUN_WITHIN_S + 40, func_only=True)

WORK = """
import os
given = open('given.txt').read()
open('made.txt', 'w').write(f'{given} at {os.getcwd()}')
os.rename('given.txt', 'taken.txt')
"""


def nbclient(notebook: str, output: str) -> list[str]:
    """Return a program that uses nbclient as a library, as a test suite of notebooks does."""
    program = (
        "import nbformat, sys; from nbclient import NotebookClient\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "NotebookClient(notebook, kernel_name='backendai-python').execute()\n"
        "nbformat.write(notebook, sys.argv[2])"
    )
    return [sys.executable, "-c", program, notebook, output]


@pytest.fixture(params=RUNTIMES)
def config(request: pytest.FixtureRequest) -> str:
    lines = [f"c.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    return "\n".join(lines)


@pytest.mark.parametrize("tool", [jupyter_execute, papermill, nbclient])
async def test_a_notebook_in_a_folder_reads_and_writes_beside_itself(
    config: str, short_tmp_path: Path, tool: Callable[[str, str], list[str]]
) -> None:
    async with RunningServer(short_tmp_path, config=config) as server:
        await make_directory(server, "data/deep")
        await put(server, "data/deep/given.txt", "worked")
        directory = folder_on_disk(server, "data") / "deep"
        nbformat.write(new_notebook(cells=[new_code_cell(WORK)]), directory / "nb.ipynb")
        await run(tool("nb.ipynb", "out.ipynb"), directory, server)
        assert await read(server, "data/deep/made.txt") == "worked at /home/work/data/deep"
        await put(server, "data/deep/made.txt", "both may write")
        assert sorted(path.name for path in directory.iterdir()) == [
            "made.txt",
            "nb.ipynb",
            "out.ipynb",
            "taken.txt",
        ]


async def run(command: list[str], directory: Path, server: RunningServer) -> None:
    """Run a command in a folder, with the settings and the database of the server."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=server.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_WITHIN_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()


def folder_on_disk(server: RunningServer, name: str) -> Path:
    path = server.root / "data" / "backendai" / "backendai.sqlite"
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT path FROM vfolders WHERE name = ?"
        (found,) = database.execute(query, [name]).fetchone()
    return Path(found)
