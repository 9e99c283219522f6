"""What a cell said and how it ended, on one member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_CHARS = 1 << 20  # of each stream; more was printed, and is not kept twice


@dataclass
class Result:
    """``status`` is ``ok``, ``error``, ``interrupted`` or ``lost``, and before that ``running``."""

    host: str
    status: str = "running"
    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)  # by MIME type
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = field(default_factory=list)
    cut: bool = False  # the beginning of a stream was too much to keep

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def value(self) -> str:
        """What the cell's last expression, or display, was as text."""
        return str(self.displays[-1].get("text/plain", "")) if self.displays else ""

    @property
    def summary(self) -> str:
        if self.status == "error":
            return f"{self.ename}: {self.evalue}".rstrip(": ")
        return self.evalue or self.status

    def write(self, stream: str, text: str) -> None:
        kept = getattr(self, stream) + text
        self.cut |= len(kept) > KEPT_CHARS
        setattr(self, stream, kept[-KEPT_CHARS:])

    def end(self, status: str, *, ename: str = "", evalue: str = "") -> None:
        """Say how it ended; what was said first stands."""
        if self.status == "running":
            self.status, self.ename, self.evalue = status, ename, evalue

    def fail(self, ename: str, evalue: str) -> None:
        interrupted = ename == "KeyboardInterrupt"
        self.end("interrupted" if interrupted else "error", ename=ename, evalue=evalue)

    def __str__(self) -> str:
        return f"{self.host}: {'ok' if self.ok else self.summary}"


class NotAllWell(BaseException):
    """How a cell ended that did not end well everywhere; ``results`` has what each member said."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self.results = dict(results)
        failed = [result for result in self.results.values() if not result.ok]
        each = "; ".join(f"{result.host}: {result.summary}" for result in failed)
        super().__init__(f"{len(failed)} of {len(self.results)} members failed: {each}")

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this: where in here it was raised helps nobody."""
        return [f"{type(self).__name__}: {self}"]


class MembersFailed(NotAllWell, RuntimeError):
    """The cell failed, was lost or ran out of time on some members."""


class MembersInterrupted(NotAllWell, KeyboardInterrupt):
    """The cell was interrupted here, and so everywhere."""
