"""A kernel that runs a batch: started by other steps, and asked by files instead of messages.

Its container has ``batch_runner.py`` as its program, which lies in the run directory with its
order and says in a file there how far it is.  The kernel's user may write there what he likes:
he would deceive nobody but himself.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from backendai_jupyter.agent.kernel_files import MEMBERS_FILE, write_private
from backendai_jupyter.agent.launch import (
    STEPS,
    Answer,
    Channels,
    Container,
    Launch,
    Step,
    Tools,
    exited,
    filled,
    trouble,
)
from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.runtime.base import HOME, Inside
from backendai_jupyter.agent.runtime.workdir import under
from backendai_jupyter.domain.batch import BatchOrder, CellProgress, End
from backendai_jupyter.domain.batch_ends import RUN_TIMED_OUT
from backendai_jupyter.domain.wire import Assignment, Exit, ExitReason, Record
from backendai_jupyter.errors import LaunchFailed, RuntimeFailed
from backendai_jupyter.supervisor import race

LOOK_S = 1.0  # between two looks how far batches are
_READY_LOOK_S = 0.05
_STATE_FILE = "batch_state.json"
_STATE_BYTES = 64 * 1024  # more is not ours
_ORDER_FILE = "batch_order.json"
_GO_FILE = "batch_go-{attempt}"
_RUNNER_FILE = Path(__file__).with_name("batch_runner.py")
_NOTEBOOK_FILE = Path(__file__).with_name("batch_notebook.py")  # it is used by the other


class RunnerPhase(StrEnum):
    REFUSED = "refused"  # it cannot begin
    READY = "ready"
    RUNNING = "running"
    ENDED = "ended"


class RunnerState(Record):
    """What the runner has said last."""

    attempt: int
    phase: RunnerPhase
    cell: int = 0
    cells: int = 0
    since: float = 0.0
    begun: float = 0.0
    end: End | None = None
    message: str = ""
    code: int = 1

    @property
    def progress(self) -> CellProgress | None:
        """How far the notebook is, once it has begun; a command has none."""
        if not self.cells:
            return None
        return CellProgress(cell=self.cell, cells=self.cells, since=self.since, begun=self.begun)


class BatchContainer(Container):
    """Start the runner."""

    async def do(self, launch: Launch, tools: Tools) -> None:
        assert launch.image is not None
        try:
            await super().do(launch, tools)
        except RuntimeFailed as error:
            if "python3" not in str(error):
                raise
            problem = f"A batch needs python3, which the image {launch.image.name!r} lacks."
            raise LaunchFailed(self.name, f"{problem} {error}") from error

    def _files(self, launch: Launch, tools: Tools, inside: Inside) -> dict[str, str]:
        order, run_dir = launch.assignment.batch, tools.node.run_dir(launch.kernel_id)
        assert order is not None
        assert launch.image is not None
        self._deliver(launch, tools)
        # Its output needs no care, because the runner reads all of it; its session has members.
        starts = {"{kernel_output}": f"{inside.run_dir}/{MEMBERS_FILE}"}
        told = {
            **_seen_from(inside, launch.assignment, order).model_dump(mode="json"),
            "kernel_argv": [filled(word, starts) for word in order.kernel_argv],
            "session_id": launch.assignment.session_id,
            "image": launch.image.name,
        }
        write_private(run_dir / _ORDER_FILE, json.dumps(told).encode(), tools.node)
        for file in (_RUNNER_FILE, _NOTEBOOK_FILE):
            write_private(run_dir / file.name, file.read_bytes(), tools.node)
        return {"{batch_runner}": f"{inside.run_dir}/{_RUNNER_FILE.name}"}


class Ready:
    """Wait until the runner says that it may begin."""

    name = "ready"

    async def do(self, launch: Launch, tools: Tools) -> None:
        try:
            await race(self._until_ready(launch, tools), trouble(launch, tools, self.name))
        except LaunchFailed as error:
            state = await _state_of(launch, tools.node)
            if state is not None and state.phase is RunnerPhase.REFUSED:
                raise LaunchFailed(self.name, state.message, error.log_tail) from error
            raise

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        """Nothing stays behind from waiting."""

    async def _until_ready(self, launch: Launch, tools: Tools) -> None:
        while True:
            state = await _state_of(launch, tools.node)
            if state is not None and state.phase is not RunnerPhase.REFUSED:
                return
            await asyncio.sleep(_READY_LOOK_S)


_OTHERS: dict[str, Step] = {Container.name: BatchContainer(), Answer.name: Ready()}
_BATCH_STEPS = tuple(_OTHERS.get(step.name, step) for step in STEPS if step.name != Channels.name)


def steps_of(assignment: Assignment) -> tuple[Step, ...]:
    """Return the steps by which it is started; what is undone is the same for all."""
    return STEPS if assignment.batch is None else _BATCH_STEPS


async def let_begin(desired: Assignment, tools: Tools) -> None:
    """Tell the runner to begin, if it may; idempotent."""
    if desired.batch is not None and desired.batch.go:
        directory = tools.node.run_dir(desired.kernel_id)
        await asyncio.to_thread(_touch, directory, desired.batch.attempt)


async def look_at_progress(launches: Iterable[Launch], node: Node) -> bool:
    """Learn how far batches are; returns whether any has got on."""
    changed = False
    for launch in launches:
        if launch.assignment.batch is None:
            continue
        state = await _state_of(launch, node)
        progress = state.progress if state is not None else None
        if progress is not None and progress != launch.progress:
            launch.progress, changed = progress, True
    return changed


async def how_it_ended(launch: Launch, tools: Tools) -> Exit | None:
    """Return why the program of this generation is not running, or None if it is."""
    ending = await exited(launch, tools)
    if ending is None or launch.assignment.batch is None:
        return ending
    return _in_words(ending, await _state_of(launch, tools.node))


def _in_words(ending: Exit, state: RunnerState | None) -> Exit:
    """Return the exit with what the runner has said of it.

    What it has not said, e.g. because it was killed as well, is the container's to say.
    """
    if state is None:
        return ending
    told: dict[str, object] = {"progress": state.progress}
    if state.phase is not RunnerPhase.ENDED or ending.reason is ExitReason.OUT_OF_MEMORY:
        where = f" It was at {state.progress}." if state.progress else ""
        return ending.model_copy(update={**told, "message": f"{ending.message}{where}"})
    told |= {"message": state.message, "code": state.code, "reason": ExitReason.EXITED}
    if state.end is End.TIMED_OUT:
        told |= {"reason": ExitReason.TIMED_OUT, "cause": RUN_TIMED_OUT}
    return ending.model_copy(update=told)


async def _state_of(launch: Launch, node: Node) -> RunnerState | None:
    """Return what the runner of this attempt has said; None if nothing that can be read."""
    order = launch.assignment.batch
    assert order is not None
    path = node.run_dir(launch.kernel_id) / _STATE_FILE
    try:
        state = RunnerState.model_validate_json(await asyncio.to_thread(_read, path))
    except (OSError, ValidationError):
        return None
    return state if state.attempt == order.attempt else None


def _read(path: Path) -> bytes:
    """Read a file that a kernel's user has made: no link is followed, no pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_STATE_BYTES)


def _touch(directory: Path, attempt: int) -> None:
    """Make the file that lets an attempt begin."""
    path = directory / _GO_FILE.format(attempt=attempt)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o644))
    except FileExistsError:
        return


def _seen_from(inside: Inside, assignment: Assignment, order: BatchOrder) -> BatchOrder:
    """Return the order with the paths that the program sees: unconfined it sees the host's."""
    if inside.home == HOME:
        return order
    places = {mount.target: mount.source for mount in assignment.mounts} | {HOME: inside.home}

    def seen(path: str) -> str:
        for target in sorted(places, key=len, reverse=True):  # the innermost wins
            rest = under(path, target)
            if path and rest is not None:
                return str(PurePosixPath(places[target], rest))
        return path

    paths = {name: seen(getattr(order, name)) for name in ("notebook", "output", "log")}
    return order.model_copy(update=paths)
