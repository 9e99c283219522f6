"""The sample notebooks do real work without a server, on both runtimes, and leave nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import json
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from tests.engine import PrivateEngine
from tests.helpers import eventually

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
KERNELSPEC = "backendai-python"
RUN_WITHIN_S = 90.0
# Not counted: the time that the Docker engine and its images take to be there.
pytestmark = pytest.mark.timeout(RUN_WITHIN_S + 20, func_only=True)


@dataclass(frozen=True)
class Place:
    """A copy of the examples, and where a backend that runs them keeps its things."""

    root: Path
    runtime: str
    engine: PrivateEngine | None
    before: frozenset[int]  # processes that are none of ours

    @property
    def notebooks(self) -> Path:
        return self.root / "examples"

    @property
    def sockets(self) -> Path:
        return self.root / "run"

    @property
    def data(self) -> Path:
        return Path(os.environ["JUPYTER_DATA_DIR"]) / "backendai"

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "backendai.sqlite")) as database:
            return database.execute(sql).fetchall()

    def sessions(self) -> list[str]:
        return [str(session_id) for (session_id,) in self.query("SELECT id FROM sessions")]


@pytest.fixture(params=["process", "docker"])
def place(request: pytest.FixtureRequest, short_tmp_path: Path) -> Place:
    runtime: str = request.param
    engine = request.getfixturevalue("engine") if runtime == "docker" else None
    made = Place(short_tmp_path, runtime, engine, frozenset(psutil.pids()))
    short_tmp_path.chmod(0o755)  # kernels of a privileged agent have a user of their own
    shutil.copytree(EXAMPLES, made.notebooks)
    config = {
        "BackendAI.runtime_dir": str(made.sockets),
        "BackendAIAgent.runtime": runtime,
        "BackendAIAgent.docker_url": engine.url if engine else "",
    }
    config_dir = Path(os.environ["JUPYTER_CONFIG_DIR"])
    config_dir.mkdir()
    lines = [f"c.{name} = {value!r}\n" for name, value in config.items()]
    (config_dir / "jupyter_server_config.py").write_text("".join(lines))
    return made


def papermill(notebook: str, output: str) -> list[str]:
    return [sys.executable, "-m", "papermill", "-k", KERNELSPEC, notebook, output]


def jupyter_execute(notebook: str, output: str) -> list[str]:
    command = [sys.executable, "-m", "jupyter", "execute", f"--kernel_name={KERNELSPEC}"]
    return [*command, f"--output={output}", notebook]


@pytest.mark.parametrize("tool", [papermill, jupyter_execute])
async def test_exploring_a_csv_counts_what_the_file_holds(
    place: Place, tool: Callable[[str, str], list[str]]
) -> None:
    printed = text_of(await run(place, tool, "01-explore-a-csv.ipynb"))
    with (EXAMPLES / "rides.csv").open() as file:
        rides = list(csv.DictReader(file))
    complete = [ride for ride in rides if ride["minutes"]]
    busiest = Counter(ride["station"] for ride in complete).most_common(1)[0][0]
    assert f"{len(complete)} of {len(rides)} rides are complete" in printed
    assert f"busiest station: {busiest}" in printed
    await assert_nothing_is_left(place)


@pytest.mark.parametrize("tool", [papermill, jupyter_execute])
async def test_a_plot_comes_back_as_a_picture(
    place: Place, tool: Callable[[str, str], list[str]]
) -> None:
    notebook = await run(place, tool, "02-plot.ipynb")
    pictures = [
        base64.b64decode(output.data["image/png"])
        for output in outputs_of(notebook)
        if "image/png" in output.get("data", {})
    ]
    assert [picture[:8] for picture in pictures] == [b"\x89PNG\r\n\x1a\n"]
    width, height = (int.from_bytes(pictures[0][at : at + 4], "big") for at in (16, 20))
    assert width > height > 300
    with (EXAMPLES / "river.csv").open() as file:
        highest = max(csv.DictReader(file), key=lambda day: float(day["level_cm"]))
    said = f"highest level: {highest['level_cm']} cm on {highest['date']}"
    assert said in text_of(notebook)
    await assert_nothing_is_left(place)


@pytest.mark.parametrize("tool", [papermill, jupyter_execute])
async def test_a_fitted_model_predicts_houses_it_has_not_seen(
    place: Place, tool: Callable[[str, str], list[str]]
) -> None:
    printed = text_of(await run(place, tool, "03-fit-a-model.ipynb"))
    score = re.search(r"^R2: (0\.\d+)$", printed, re.MULTILINE)
    assert "houses judged: 80" in printed
    assert score is not None
    assert float(score[1]) > 0.8
    await assert_nothing_is_left(place)


@pytest.mark.parametrize("tool", [papermill, jupyter_execute])
async def test_a_notebook_gets_the_resources_that_its_metadata_asks_for(
    place: Place, tool: Callable[[str, str], list[str]]
) -> None:
    printed = text_of(await run(place, tool, "04-ask-for-resources.ipynb"))
    asked = dict(place.query("SELECT slot, requested FROM allocations"))
    (session_id,) = place.sessions()
    assert asked == {"cpu": 2 * 1000, "mem": 1536 * 1024**2 * 1000}  # thousandths
    assert f"BACKENDAI_SESSION_ID={session_id}" in printed
    assert "BACKENDAI_CLUSTER_ROLE=main" in printed
    if place.engine is not None:
        assert "memory limit: 1536 MiB" in printed
    assert re.search(r"mean ride: 2\.\d\d km, 95 % between 2\.\d\d and 2\.\d\d km", printed)
    await assert_nothing_is_left(place)


async def run(
    place: Place, tool: Callable[[str, str], list[str]], name: str
) -> nbformat.NotebookNode:
    """Run a notebook as a person would, beside its data, and return what came out."""
    output = "out.ipynb"
    process = await asyncio.create_subprocess_exec(
        *tool(name, output),
        cwd=place.notebooks,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_WITHIN_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        said, _ = await process.communicate()
        raise AssertionError(f"not done within {RUN_WITHIN_S} s:\n{said.decode()}") from None
    assert process.returncode == 0, said.decode()
    text = (place.notebooks / output).read_text()
    notebook: nbformat.NotebookNode = nbformat.reads(text, as_version=4)
    return notebook


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "".join(o.text for o in outputs_of(notebook) if o.output_type == "stream")


async def assert_nothing_is_left(place: Place) -> None:
    assert place.sessions(), "the notebook ran somewhere else"
    assert place.query("SELECT * FROM allocations WHERE freed_at IS NULL") == []
    assert place.query("SELECT * FROM agent_slots WHERE reserved + used <> 0") == []
    assert place.query("SELECT * FROM sessions WHERE status <> 'TERMINATED'") == []
    with contextlib.suppress(AssertionError):  # what ended may still be on its way out
        await eventually(lambda: not remains(place))
    assert remains(place) == []


def remains(place: Place) -> list[str]:
    """Return what a run has left of processes, containers, directories and cgroups."""
    marks = (str(place.root), *place.sessions())
    new = (process for process in psutil.process_iter() if process.pid not in place.before)
    found = [found for process in new if (found := _belongs(process, marks))]
    directories = (place.sockets, place.data / "instances", place.data / "scratch")
    found += [str(path) for directory in directories for path in directory.glob("*")]
    for session_id in place.sessions():
        found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*/{session_id}*")]
        found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{session_id}*")]
    if place.engine is not None:
        with contextlib.closing(place.engine.client()) as client:
            found += [json.dumps(container["Labels"]) for container in client.containers(all=True)]
    return found


def _belongs(process: psutil.Process, marks: tuple[str, ...]) -> str:
    """Return what a process is if one of ``marks`` is in its command or environment."""
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        told = [command, *process.environ().values()]
        if any(mark in text for mark in marks for text in told):
            return f"{process.pid} {command}"
    return ""
