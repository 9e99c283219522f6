"""Runs inside a batch session: executes its notebook with nbclient, and saves it after each cell.

The agent puts this file beside ``batch_runner.py``, which imports it.  The notebook's kernel is a
child of that process.  It needs nbclient 0.7 or later and nothing of this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

HERE = Path(__file__).parent
STARTUP_S = 300  # for the notebook's kernel, on a slow disk
SAID = 500  # characters of an error's value
METADATA = "backendai_batch"  # in the executed notebook
INJECTED = "injected-parameters"


class Unreadable(Exception):
    """There is no notebook there; the message says what there is."""


class Superseded(Exception):
    """Another attempt writes the same output: the agent of this one was taken for lost."""


class Died(Exception):
    """The notebook's kernel has; ``code`` is a shell's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The notebook's kernel died, exit code {code}")
        self.code = code


class OneSpec(KernelSpecManager):
    """Has one kernelspec, which is not on the disk."""

    def __init__(self, argv: list[str], language: str) -> None:
        super().__init__()
        self._spec = KernelSpec(argv=argv, language=language, display_name="batch")

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self._spec


class Client(NotebookClient):
    """Also writes to the log what the notebook prints."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            sys.stdout.write(msg["content"]["text"])
            sys.stdout.flush()
        return super().process_message(msg, cell, cell_index)


class Output:
    """The executed notebook in its folder."""

    def __init__(self, nb: Any, order: dict[str, Any]) -> None:
        self._nb = nb
        self._path = Path(order["output"])
        self._session_id, self._attempt = order["session_id"], order["attempt"]
        self._parameters = order["parameters"]
        self._saved: tuple[int, int] | None = None  # what was saved last

    def save(self, status: str) -> None:
        """Replace it as a whole; blocks.  Raises ``Superseded``, and ``OSError``."""
        self._check_is_ours()
        self._nb.metadata[METADATA] = {
            "session_id": self._session_id,
            "attempt": self._attempt,
            "status": status,
            "parameters": self._parameters,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{self._attempt}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(nbformat.writes(self._nb))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        sync_directory(self._path.parent)
        self._saved = identity(self._path)

    def _check_is_ours(self) -> None:
        if self._saved is None or identity(self._path) in (None, self._saved):
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            known = json.loads(self._path.read_text(encoding="utf-8"))["metadata"][METADATA]
            if known["session_id"] == self._session_id and known["attempt"] > self._attempt:
                raise Superseded("Another attempt of this session has taken its place.")


class Program:
    """One attempt at one notebook."""

    def __init__(self, order: dict[str, Any]) -> None:
        """Raises ``Unreadable``."""
        self._order = order
        self._nb = read(Path(order["notebook"]))
        inject(self._nb, order["parameters"], order["language"])
        self._output = Output(self._nb, order)
        self._stopped = ""  # why it was, if it was

    def run(self, order: dict[str, Any], state: Any) -> int:
        """Execute it; returns the exit code."""
        end, message, code = asyncio.run(self._run(state))
        try:
            self._output.save(end)
        except (OSError, Superseded) as error:
            end, message, code = "failed", f"{message} It could not be saved: {error}", None
        done: int = state.end(end, message, code)
        return done

    async def _run(self, state: Any) -> tuple[str, str, int | None]:
        """Return how it has ended, a sentence, and the exit code if it is not the usual one."""
        try:
            await self._execute(state)
        except CellExecutionError as error:
            what = f"{error.ename}: {error.evalue}"[:SAID]
            return "failed", f"It failed{state.where()}: {what}", None
        except (asyncio.CancelledError, Died) as error:
            # nbclient takes whoever cancels it for the death of its kernel.
            if self._stopped == "timed-out":
                limit_s = self._order["timeout_s"]
                return "timed-out", f"It took longer than its {limit_s:g} s{state.where()}.", None
            if self._stopped or not isinstance(error, Died):
                return "cancelled", f"It was ended{state.where()}.", None
            return "failed", f"{error}{state.where()}.", error.code
        except (OSError, RuntimeError, Superseded, DeadKernelError) as error:
            return "failed", f"It failed{state.where()}: {error}", None
        cells = len(numbered(self._nb))
        return "done", f"Done: {cells} cells in {state.took()}.", None

    async def _execute(self, state: Any) -> None:
        numbers = numbered(self._nb)
        state.begin(len(numbers))
        client = self._client()
        client.reset_execution_trackers()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(why: str) -> None:
            self._stopped = self._stopped or why
            if task is not None:
                task.cancel()

        if self._order["timeout_s"] is not None:
            loop.call_later(self._order["timeout_s"], stop, "timed-out")
        async with client.async_setup_kernel(cleanup_kc=True):
            # nbclient's own handler would end its kernel, and nobody would know why.
            loop.add_signal_handler(signal.SIGTERM, stop, "cancelled")
            for place, number in numbers.items():
                state.at_cell(number)
                await execute_cell(client, self._nb.cells[place], place)
                await asyncio.to_thread(self._output.save, "running")

    def _client(self) -> Client:
        """Return a client whose kernel is reached by sockets that nobody else can open."""
        argv, language = self._order["kernel_argv"], self._order["language"]
        sockets = HERE / f"batch-{self._order['attempt']}"
        sockets.mkdir(mode=0o700, exist_ok=True)
        connection_file = HERE / "connection.json"  # where members of its session look for it
        connection_file.unlink(missing_ok=True)  # of the attempt before
        manager = AsyncKernelManager(
            kernel_name="batch",
            kernel_spec_manager=OneSpec(argv, language),
            transport="ipc",
            ip=str(sockets / "k"),
            connection_file=str(connection_file),
        )
        return Client(self._nb, km=manager, timeout=None, startup_timeout=STARTUP_S)


async def execute_cell(client: Client, cell: Any, place: int) -> None:
    try:
        count = client.code_cells_executed + 1
        await client.async_execute_cell(cell, place, execution_count=count)
    except DeadKernelError:
        raise Died(exit_code_of(client)) from None
    client.set_widgets_metadata()


def exit_code_of(client: Client) -> int:
    """Return how the notebook's kernel ended, as a shell says it; 1 if that is not known."""
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    code = process.poll() if process is not None else None
    if code is None:
        return 1
    return int(code) if code >= 0 else 128 - int(code)


def read(path: Path) -> Any:
    """Return a notebook without the outputs that it has; raises ``Unreadable``."""
    try:
        nb = nbformat.read(path, as_version=4)
    except OSError as error:
        raise Unreadable(f"The notebook {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a file of anybody's
        raise Unreadable(f"{path} is no notebook: {type(error).__name__}.") from error
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def numbered(nb: Any) -> dict[int, int]:
    """Return the number of each cell that has code, by its place; the first one is 1."""
    places = [p for p, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip()]
    return {place: number for number, place in enumerate(places, 1)}


def inject(nb: Any, parameters: dict[str, Any], language: str) -> None:
    """Put the parameters after the cell that is tagged ``parameters``, else first: as papermill."""
    if not parameters:
        return
    nb.cells = [cell for cell in nb.cells if INJECTED not in tags_of(cell)]
    write, assign = (r_value, "<-") if language.lower() == "r" else (python_value, "=")
    lines = [f"{name} {assign} {write(value)}" for name, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(["# Parameters", *lines]))
    cell.metadata["tags"] = [INJECTED]
    if (nb.nbformat, nb.nbformat_minor) < (4, 5):
        cell.pop("id", None)
    tagged = [place for place, one in enumerate(nb.cells) if "parameters" in tags_of(one)]
    nb.cells.insert(tagged[0] + 1 if tagged else 0, cell)


def tags_of(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def python_value(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {python_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_value, value)) + "]"
    return repr(value)


def r_value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        pairs = (f"{r_value(name)} = {r_value(one)}" for name, one in value.items())
        return f"list({', '.join(pairs)})"
    if isinstance(value, list):
        return f"list({', '.join(map(r_value, value))})"
    return repr(value)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells whether another file has taken a place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
