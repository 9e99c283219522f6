"""Batch sessions: a notebook, or a command, that runs from its beginning to its end by itself.

``Batch`` is what is asked for, as the session's row keeps it.  ``BatchOrder`` is what the runner
beside the notebook's kernel is told of one attempt; ``CellProgress`` is how far it is.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from backendai_jupyter.errors import InvalidInput

MAX_RETRIES = 100
# What a command line of an order holds; the agent says where they are.
RUNNER_ARGV = ("python3", "{batch_runner}")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


class SessionType(StrEnum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class End(StrEnum):
    """How a batch session, or one attempt of it, has ended."""

    DONE = "done"
    FAILED = "failed"  # a cell, the command, or the program itself
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"  # somebody asked for its end
    AGENT_LOST = "agent-lost"
    START_FAILED = "start-failed"  # before the first cell


RETRIABLE = (End.FAILED, End.TIMED_OUT, End.AGENT_LOST, End.START_FAILED)
# What is tried again unless it is said otherwise: what is too slow once will be so again.
RETRIED = (End.FAILED, End.AGENT_LOST, End.START_FAILED)


def _read_ends(raw: Any) -> tuple[End, ...]:
    return tuple(End(one) for one in raw)


_Ends = Annotated[
    tuple[End, ...], BeforeValidator(_read_ends), PlainSerializer(list, return_type=list)
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Batch(_Record):
    """A notebook or a command, never both; paths are those that kernels see."""

    notebook: str = ""
    output: str = ""  # the executed notebook
    parameters: dict[str, Any] = {}
    command: tuple[str, ...] = ()
    log: str = (
        ""  # a file for all that is written to stdout and stderr; empty: only its end is kept
    )
    language: str = "python"
    kernel_argv: tuple[str, ...] = ()  # of the notebook's kernel
    timeout_s: float | None = None  # of each attempt; None: as long as it takes
    retries: int = 0
    retry_on: _Ends = RETRIED


class BatchOrder(_Record):
    """One attempt; nothing of it begins before ``go``, when its whole session runs."""

    attempt: int
    go: bool = False
    notebook: str = ""
    output: str = ""
    parameters: dict[str, Any] = {}
    command: tuple[str, ...] = ()
    log: str = ""
    language: str = "python"
    kernel_argv: tuple[str, ...] = ()
    timeout_s: float | None = None


class CellProgress(_Record):
    """How far a notebook is; only its code cells are counted, the first one is 1.

    Times are of the node's clock, in seconds since the epoch.
    """

    cell: int  # that is under way, or was the last one; 0: none has begun
    cells: int
    since: float  # when this cell began
    begun: float  # when the attempt did

    def __str__(self) -> str:
        return f"cell {self.cell} of {self.cells}"


def read_timeout(raw: object, *, field: str) -> float | None:
    """Read seconds, or e.g. ``90s``, ``30m``, ``1.5h``; None is no limit, and zero is none either
    way: it is refused.
    """
    if raw is None:
        return None
    seconds = math.nan
    if isinstance(raw, str) and (found := _DURATION.fullmatch(raw.strip())):
        seconds = float(found[1]) * _UNITS_S[found[2]]
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        seconds = float(raw)
    if not 0 < seconds < math.inf:
        problem = f"{raw!r} is no time above zero, such as 90, '30m' or '1.5h'; without it no limit"
        raise InvalidInput(field, problem)
    return seconds


def order_of(batch: Batch, *, attempt: int, go: bool) -> BatchOrder:
    """Return what the runner of an attempt is told."""
    told = batch.model_dump(include=set(BatchOrder.model_fields))
    return BatchOrder(attempt=attempt, go=go, **told)
