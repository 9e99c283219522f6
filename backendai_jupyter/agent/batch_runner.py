"""Runs inside a batch session: its notebook, cell by cell, or its command; nobody is connected.

The agent puts this file and its order into the kernel's run directory and starts it with the
image's own ``python3`` (decision 033).  For a command it needs nothing else; for a notebook
``batch_notebook.py`` beside it, which needs nbclient.  It outlives the agent and every manager,
so the time limit is its own business.

==================  =======================================================================
batch_order.json    what to run, written by the agent: ``BatchOrder`` and some names
batch_go-N          made by the agent when attempt N may begin
batch_state.json    how far it is, written here; of the attempt that it names
==================  =======================================================================
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
LOOK_S = 0.05  # between two looks whether it may begin
STUCK_S = 30.0  # after the time limit, if even the end hangs
GRACE_S = 10.0  # between SIGTERM and SIGKILL of a command
FLUSH_S = 5.0  # for the last of the log
DONE, FAILED, TIMED_OUT, CANCELLED = "done", "failed", "timed-out", "cancelled"
CODES = {DONE: 0, FAILED: 1, TIMED_OUT: 124, CANCELLED: 128 + signal.SIGTERM}


class Refused(Exception):
    """It cannot begin; the message says why."""


class State:
    """What the agent reads; each change replaces the file as a whole."""

    def __init__(self, attempt: int) -> None:
        self._known: dict[str, Any] = {"attempt": attempt}

    def tell(self, phase: str, **more: Any) -> None:
        self._known.update(more, phase=phase)
        partial = HERE / "batch_state.partial"
        partial.write_text(json.dumps(self._known))
        partial.replace(HERE / "batch_state.json")

    def begin(self, cells: int = 0) -> None:
        now = time.time()
        self.tell("running", cell=0, cells=cells, begun=now, since=now)

    def at_cell(self, cell: int) -> None:
        say(f"cell {cell} of {self._known['cells']}")
        self.tell("running", cell=cell, since=time.time())

    def end(self, end: str, message: str, code: int | None = None) -> int:
        """Say how it ended; returns the exit code that says the same as far as one can."""
        say(message)
        code = CODES[end] if code is None else code
        self.tell("ended", end=end, message=message, code=code)
        return code

    def where(self) -> str:
        cell = self._known.get("cell")
        return f" in cell {cell} of {self._known['cells']}" if cell else ""

    def took(self) -> str:
        return f"{time.time() - self._known['begun']:.0f} s"


def run_command(order: dict[str, Any], state: State) -> int:
    """Run the command as it is; returns its exit code."""
    state.begin()
    words = order["command"]
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        return state.end(FAILED, f"{words[0]} cannot be started: {error.strerror}.", 127)
    asked = threading.Event()

    def stop(*_: object) -> None:
        asked.set()
        kill(process, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    try:
        code = process.wait(order["timeout_s"])
    except subprocess.TimeoutExpired:
        kill(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        kill(process, signal.SIGKILL)
        return state.end(TIMED_OUT, f"{too_long(order)}.")
    kill(process, signal.SIGKILL)  # what it has left in its group
    code = code if code >= 0 else 128 - code
    if asked.is_set():
        return state.end(CANCELLED, "It was ended.")
    if code:
        return state.end(FAILED, f"The command failed after {state.took()} with code {code}.", code)
    return state.end(DONE, f"Done: the command took {state.took()}.")


def kill(process: subprocess.Popen[bytes], signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def too_long(order: dict[str, Any]) -> str:
    return f"It took longer than its {order['timeout_s']:g} s"


def tee(path: Path) -> Callable[[], None]:
    """Let all that is written from here on also go to a file; returns what waits for the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    reader, writer = os.pipe()
    terminals = os.dup(1), os.dup(2)
    for descriptor in (1, 2):
        os.dup2(writer, descriptor)
    os.close(writer)

    def copy() -> None:
        while data := os.read(reader, 1 << 16):
            for target in (terminals[0], log):
                with contextlib.suppress(OSError):  # a full disk costs the log, never the run
                    os.write(target, data)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()

    def finish() -> None:
        os.dup2(terminals[0], 1)
        os.dup2(terminals[1], 2)
        thread.join(FLUSH_S)  # what a program has left behind may hold the pipe

    return finish


def say(text: str) -> None:
    sys.stderr.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")
    sys.stderr.flush()


def notebook_program(order: dict[str, Any]) -> Callable[[dict[str, Any], State], int]:
    """Read the notebook and return what runs it; raises ``Refused`` with what one can do."""
    try:
        module = importlib.import_module("batch_notebook")
    except ImportError as error:
        raise Refused(
            f"The image {order['image']!r} cannot run notebooks as batch sessions: its python3 has "
            f"no {error.name}. Install nbclient there, or run a command instead."
        ) from None
    try:
        program: Callable[[dict[str, Any], State], int] = module.Program(order).run
    except module.Unreadable as error:
        raise Refused(str(error)) from None
    return program


def watch(order: dict[str, Any], state: State) -> None:
    """End it by force where even its end hangs, e.g. because a file system does."""
    if order["timeout_s"] is None:
        return

    def give_up() -> NoReturn:
        code = CODES[TIMED_OUT]
        state.tell("ended", end=TIMED_OUT, message=f"{too_long(order)}.", code=code)
        os._exit(code)

    timer = threading.Timer(order["timeout_s"] + STUCK_S, give_up)
    timer.daemon = True
    timer.start()


def main() -> int:
    order = json.loads((HERE / "batch_order.json").read_text())
    state = State(order["attempt"])
    finish: Callable[[], None] = sys.stdout.flush
    try:
        if order["log"]:
            finish = tee(Path(order["log"]))
        program = notebook_program(order) if order["notebook"] else run_command
    except (Refused, OSError) as error:
        say(str(error))
        state.tell("refused", message=str(error))
        return 1
    state.tell("ready")
    while not (HERE / f"batch_go-{order['attempt']}").exists():
        time.sleep(LOOK_S)
    watch(order, state)
    try:
        return program(order, state)
    finally:
        sys.stdout.flush()
        finish()


if __name__ == "__main__":
    os._exit(main())  # at once: nothing that hangs may keep it
