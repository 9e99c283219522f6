"""The part of this kernel in a cell that runs on several members."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from .labels import Labels
from .results import Result


class LabelledStream:
    """A stream of this kernel, whose text gets its label; all else is the stream's own."""

    def __init__(self, stream: TextIO, write: Callable[[str], None]) -> None:
        self._stream = stream
        self._write = write

    def write(self, text: str) -> int:
        self._write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_here(shell: Any, code: str, labels: Labels, result: Result) -> None:
    """Run a cell in this kernel as a member among others; an interrupt ends it like any cell."""
    with _streams(labels, result), _displays(shell, labels, result), _errors(shell, labels, result):
        done = shell.run_cell(code, store_history=False)
    if done.success:
        result.end("ok")
    else:
        error = done.error_before_exec or done.error_in_exec
        result.fail(type(error).__name__, str(error))
    labels.end(result)


@contextlib.contextmanager
def _streams(labels: Labels, result: Result) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        LabelledStream(stream, lambda text, name=name: labels.write(result, name, text))  # type: ignore[misc]
        for name, stream in zip(("stdout", "stderr"), before, strict=True)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _displays(shell: Any, labels: Labels, result: Result) -> Iterator[None]:
    """Have displays announced; ipykernel asks hooks, of this thread, about each."""
    publisher, hook = shell.display_pub, sys.displayhook

    def announce(message: dict[str, Any]) -> dict[str, Any] | None:
        if message["msg_type"] not in ("display_data", "update_display_data"):
            return message
        update = message["msg_type"] == "update_display_data"
        goes_on = labels.announce(result, message["content"], update=update)
        return message if goes_on else None

    def show(value: Any) -> None:
        if value is not None:
            builtins._ = value  # type: ignore[attr-defined]
            data, metadata = shell.display_formatter.format(value)
            if data:  # else it has displayed itself
                publisher.publish(data, metadata)

    publisher.register_hook(announce)
    sys.displayhook = show
    try:
        yield
    finally:
        publisher.unregister_hook(announce)
        sys.displayhook = hook


@contextlib.contextmanager
def _errors(shell: Any, labels: Labels, result: Result) -> Iterator[None]:
    """Show the traceback with a label, as those of the others, instead of as the cell's error."""

    def show(etype: Any, evalue: Any, traceback: list[str]) -> None:
        labels.error(result, str(getattr(etype, "__name__", etype)), str(evalue), traceback)

    shell._showtraceback = show
    try:
        yield
    finally:
        del shell._showtraceback
