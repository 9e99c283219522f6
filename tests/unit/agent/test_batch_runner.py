"""The runner of batch sessions, as a program of its own, over real notebooks and kernels."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from backendai_jupyter.agent import batch
from backendai_jupyter.domain.batch import BatchOrder, End
from tests.helpers import eventually

KERNEL = ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
WITHIN_S = 60.0
FOREVER = "import time\nwhile True: time.sleep(0.1)"


class Runner:
    """One attempt, in a run directory of its own; its order is what an agent writes."""

    def __init__(self, root: Path, **order: Any) -> None:
        self.run_dir = root / "run"
        self.run_dir.mkdir(exist_ok=True)
        for name in ("batch_runner.py", "batch_notebook.py"):
            shutil.copy(Path(batch.__file__).with_name(name), self.run_dir)
        self.attempt = order.setdefault("attempt", 1)
        told = BatchOrder(kernel_argv=KERNEL, **order).model_dump(mode="json")
        told |= {"session_id": "s", "image": "python"}
        (self.run_dir / "batch_order.json").write_text(json.dumps(told))
        self.log_path = root / f"log-{self.attempt}"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, self.run_dir / "batch_runner.py"],
                cwd=root,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def state(self) -> batch.RunnerState | None:
        path = self.run_dir / "batch_state.json"
        return batch.RunnerState.model_validate_json(path.read_text()) if path.exists() else None

    def is_at(self, phase: batch.RunnerPhase, *, cell: int | None = None) -> bool:
        state = self.state()
        is_there = state is not None and state.attempt == self.attempt and state.phase is phase
        return is_there and (cell is None or (state is not None and state.cell == cell))

    async def ready(self) -> Runner:
        await eventually(lambda: self.is_at(batch.RunnerPhase.READY), within_s=WITHIN_S)
        return self

    async def begun(self) -> Runner:
        (self.run_dir / f"batch_go-{self.attempt}").touch()
        await eventually(lambda: not self.is_at(batch.RunnerPhase.READY), within_s=WITHIN_S)
        return self

    async def code(self) -> int:
        await eventually(lambda: self.process.poll() is not None, within_s=WITHIN_S)
        return self.process.wait()

    async def ended(self) -> tuple[End | None, str, int]:
        """Return how it says it ended, and its exit code."""
        code = await self.code()
        state = self.state()
        assert state is not None
        return state.end, state.message, code


Run = Callable[..., Runner]


@pytest.fixture
def run(short_tmp_path: Path) -> Iterator[Run]:
    runners: list[Runner] = []

    def make(**order: Any) -> Runner:
        runners.append(Runner(short_tmp_path, **order))
        return runners[-1]

    yield make
    for runner in runners:
        runner.process.kill()
        runner.process.wait()


@pytest.fixture
def write(short_tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Write a notebook; returns where it and its output are."""

    def make(*cells: Any, **metadata: Any) -> dict[str, str]:
        made = [cell if not isinstance(cell, str) else new_code_cell(cell) for cell in cells]
        source = short_tmp_path / "folder" / "nb.ipynb"
        source.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=made, metadata=metadata), source)
        return {"notebook": str(source), "output": str(source.with_name("out.ipynb"))}

    return make


Write = Callable[..., dict[str, str]]


def taken_over(output: Path, *, by: int) -> None:
    """Let another attempt save what is there."""
    other = nbformat.read(output, as_version=4)
    other.metadata["backendai_batch"]["attempt"] = by
    partial = output.with_suffix(".new")
    nbformat.write(other, partial)
    partial.replace(output)


def outputs(paths: dict[str, str]) -> list[str]:
    """Return what the code cells of the executed notebook have printed."""
    cells = nbformat.read(paths["output"], as_version=4).cells
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in cells
        if cell.cell_type == "code"
    ]


async def test_a_notebook_runs_with_its_parameters_from_the_first_cell_to_the_last(
    run: Run, write: Write
) -> None:
    tagged = new_code_cell("alpha = 1\nname = 'old'", metadata={"tags": ["parameters"]})
    paths = write(tagged, new_markdown_cell("text"), "print(alpha, name, more)")
    parameters = {"alpha": 0.1, "name": 'it\'s "new"', "more": [None, True, {"a": 1}]}
    runner = await (await run(**paths, parameters=parameters).ready()).begun()
    end, message, code = await runner.ended()
    assert (end, code) == (End.DONE, 0), runner.log
    assert message.startswith("Done: 3 cells in ")
    assert outputs(paths)[-1] == "0.1 it's \"new\" [None, True, {'a': 1}]\n"
    executed = nbformat.read(paths["output"], as_version=4)
    assert executed.cells[1].metadata.tags == ["injected-parameters"]
    assert executed.metadata["backendai_batch"]["status"] == "done"
    assert "[None, True" in runner.log
    assert list(Path(paths["output"]).parent.glob(".*")) == []


async def test_nothing_begins_before_it_may(run: Run, write: Write, short_tmp_path: Path) -> None:
    """F45: the program waits until its session runs."""
    runner = await run(**write("open('begun', 'w')")).ready()
    assert not (short_tmp_path / "begun").exists()
    assert not runner.log
    assert (await (await runner.begun()).ended())[0] is End.DONE
    assert (short_tmp_path / "begun").exists()


async def test_a_cell_that_fails_ends_it_and_what_was_done_is_saved(run: Run, write: Write) -> None:
    paths = write("print('one')", "print('two')\nraise ValueError('bad luck')", "print('three')")
    runner = await (await run(**paths).ready()).begun()
    assert await runner.ended() == (
        End.FAILED,
        "It failed in cell 2 of 3: ValueError: bad luck",
        1,
    )
    assert outputs(paths) == ["one\n", "two\n", ""]
    cell = nbformat.read(paths["output"], as_version=4).cells[1]
    assert cell.outputs[-1].ename == "ValueError"


async def test_it_is_saved_after_every_cell_and_says_in_which_it_is(
    run: Run, write: Write, short_tmp_path: Path
) -> None:
    gate = "import pathlib, time\nwhile not pathlib.Path('gate').exists(): time.sleep(0.01)"
    paths = write("print('one')", gate, "print('three')")
    runner = await (await run(**paths).ready()).begun()
    await eventually(lambda: runner.is_at(batch.RunnerPhase.RUNNING, cell=2), within_s=WITHIN_S)
    assert outputs(paths) == ["one\n", "", ""]
    state = runner.state()
    assert state is not None
    assert state.progress is not None
    assert (state.progress.cells, state.progress.begun <= state.progress.since) == (3, True)
    (short_tmp_path / "gate").touch()
    assert (await runner.ended())[0] is End.DONE
    assert outputs(paths) == ["one\n", "", "three\n"]


async def test_one_that_takes_too_long_is_ended_by_itself_and_saved(run: Run, write: Write) -> None:
    paths = write("print('one')", f"print('two', flush=True)\n{FOREVER}")
    runner = await (await run(**paths, timeout_s=5.0).ready()).begun()
    assert await runner.ended() == (
        End.TIMED_OUT,
        "It took longer than its 5 s in cell 2 of 2.",
        124,
    )
    assert outputs(paths) == ["one\n", "two\n"]


async def test_one_without_a_time_limit_has_none(run: Run, write: Write) -> None:
    """F44: no time limit is not one of zero seconds."""
    runner = await (await run(**write("print('one')"), timeout_s=None).ready()).begun()
    assert (await runner.ended())[0] is End.DONE


async def test_one_that_is_ended_saves_what_there_is(run: Run, write: Write) -> None:
    paths = write("print('one')", FOREVER)
    runner = await (await run(**paths).ready()).begun()
    await eventually(lambda: runner.is_at(batch.RunnerPhase.RUNNING, cell=2), within_s=WITHIN_S)
    runner.process.send_signal(signal.SIGTERM)
    assert await runner.ended() == (End.CANCELLED, "It was ended in cell 2 of 2.", 143)
    assert outputs(paths) == ["one\n", ""]


async def test_a_kernel_that_dies_is_told_as_what_killed_it(run: Run, write: Write) -> None:
    paths = write("print('one')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    runner = await (await run(**paths).ready()).begun()
    end, message, code = await runner.ended()
    assert (end, code) == (End.FAILED, 137), runner.log
    assert message == "The notebook's kernel died, exit code 137 in cell 2 of 2."


async def test_an_attempt_whose_place_another_has_taken_writes_no_more(
    run: Run, write: Write, short_tmp_path: Path
) -> None:
    gate = "import pathlib, time\nwhile not pathlib.Path('gate').exists(): time.sleep(0.01)"
    paths = write("print('one')", gate, "print('three')")
    runner = await (await run(**paths).ready()).begun()
    await eventually(lambda: runner.is_at(batch.RunnerPhase.RUNNING, cell=2), within_s=WITHIN_S)
    taken_over(Path(paths["output"]), by=2)
    (short_tmp_path / "gate").touch()
    end, message, _ = await runner.ended()
    assert (end, "taken its place" in message) == (End.FAILED, True)
    assert nbformat.read(paths["output"], as_version=4).metadata["backendai_batch"]["attempt"] == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), ("{}", "is no notebook"), ("x", "is no notebook")],
)
async def test_what_is_no_notebook_is_refused_before_it_begins(
    run: Run, short_tmp_path: Path, content: str | None, why: str
) -> None:
    path = short_tmp_path / "nb.ipynb"
    if content is not None:
        path.write_text(content)
    runner = run(notebook=str(path), output=str(path.with_name("out.ipynb")))
    assert await runner.code() == 1
    state = runner.state()
    assert state is not None
    assert (state.phase, why in state.message) == (batch.RunnerPhase.REFUSED, True), state


def test_an_image_without_nbclient_is_named(short_tmp_path: Path, write: Write) -> None:
    paths = write("print('one')")
    runner = Runner(short_tmp_path, **paths)
    runner.process.kill()
    runner.process.wait()
    bare = subprocess.run(
        [sys.executable, "-S", "-I", runner.run_dir / "batch_runner.py"], check=False
    )
    state = runner.state()
    assert state is not None
    assert (bare.returncode, state.phase) == (1, batch.RunnerPhase.REFUSED)
    assert "The image 'python' cannot run notebooks" in state.message


COMMANDS = {
    "done": ("exit 0", None, End.DONE, 0, "Done: the command took "),
    "failed": ("exit 3", None, End.FAILED, 3, "The command failed after "),
    "killed": ("kill -9 $$", None, End.FAILED, 137, "The command failed after "),
    "too long": ("sleep 1000", 0.5, End.TIMED_OUT, 124, "It took longer than its 0.5 s."),
}


@pytest.mark.parametrize(
    ("script", "timeout_s", "end", "code", "message"), COMMANDS.values(), ids=COMMANDS
)
async def test_a_command_runs_as_it_is_and_its_exit_code_is_the_result(
    run: Run, script: str, timeout_s: float | None, end: End, code: int, message: str
) -> None:
    """F46: what is said of one that is done is not what is said of one that failed."""
    runner = run(command=("sh", "-c", f"echo said; {script}"), timeout_s=timeout_s)
    runner = await (await runner.ready()).begun()
    ended = await runner.ended()
    assert (ended[0], ended[2]) == (end, code), runner.log
    assert ended[1].startswith(message)
    assert "said\n" in runner.log


async def test_a_command_that_is_not_there_says_so(run: Run) -> None:
    runner = await (await run(command=("no-such-program",)).ready()).begun()
    end, message, code = await runner.ended()
    assert (end, code) == (End.FAILED, 127)
    assert message == "no-such-program cannot be started: No such file or directory."


async def test_all_that_is_written_also_goes_to_its_log(
    run: Run, write: Write, short_tmp_path: Path
) -> None:
    log = short_tmp_path / "folder" / "logs" / "run.log"
    runner = run(
        **write("print('in the notebook')", "import os; os.write(1, b'raw')"), log=str(log)
    )
    assert (await (await (await runner.ready()).begun()).ended())[0] is End.DONE
    assert "in the notebook\n" in log.read_text()
    assert "cell 2 of 2\n" in log.read_text()
    assert "Done: 2 cells" in log.read_text()
