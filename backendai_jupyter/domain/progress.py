"""Say in words what a start does or waits for, and how long each part of it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import PullProgress
from backendai_jupyter.errors import InvalidInput

# Seconds that a start may stay in one status; 0: as long as it takes.
START_TIMEOUTS: Mapping[Status, float] = {
    Status.PENDING: 0,
    Status.SCHEDULED: 30,
    Status.PREPARING: 60,
    Status.PULLING: 600,
    Status.CREATING: 90,
    Status.RESTARTING: 120,  # all of a start in place, from asking for it to its first answer
}

_DOING: Mapping[Status, str] = {
    Status.PENDING: "Waiting for the scheduler.",
    Status.SCHEDULED: "Waiting for its agent to take it.",
    Status.PREPARING: "Its agent prepares its place.",
    Status.PULLING: "Fetching its image.",
    Status.CREATING: "Starting its program.",
    Status.RESTARTING: "Waiting for its agent to start it again.",
    Status.RESCHEDULING: "Being taken back, to start elsewhere.",
    Status.TERMINATING: "Being ended.",
}
_DOING_AT_STEP: Mapping[str, str] = {
    "image": "Fetching its image.",
    "directories": "Making its directories.",
    "devices": "Finding devices for it.",
    "relay": "Opening its channels.",
    "container": "Starting its program.",
    "answer": "Waiting for the first answer of its program.",
}


@dataclass(frozen=True, slots=True)
class StartLimits:
    """How many seconds a start may take, in each status and in all; 0: as long as it takes."""

    by_status: Mapping[Status, float]
    total_s: float = 0

    def of(self, status: Status) -> float:
        return self.by_status.get(status, 0)

    @classmethod
    def read(cls, raw: Mapping[str, object], *, field: str, total_s: float = 0) -> StartLimits:
        """Return the usual limits with what ``raw`` changes, by names of statuses.

        Raises ``InvalidInput`` naming what is wrong.
        """
        for name, value in raw.items():
            if name not in START_TIMEOUTS:
                known = ", ".join(START_TIMEOUTS)
                raise InvalidInput(f"{field}.{name}", f"no start has this status; known: {known}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidInput(f"{field}.{name}", f"{value!r} is no number of seconds")
        given = {status: raw[status] for status in START_TIMEOUTS if status in raw}
        return cls({**START_TIMEOUTS, **cast("dict[Status, float]", given)}, total_s)


def doing(status: Status, step: str = "", pull: PullProgress | None = None) -> str:
    """Return a sentence on what happens to a kernel now; empty where nothing does."""
    if pull is not None and pull.layers_total:
        return f"Fetching its image: {_so_far(pull)}."
    return _DOING_AT_STEP.get(step) or _DOING.get(status, "")


def _so_far(pull: PullProgress) -> str:
    layers = f"{pull.layers_done} of {pull.layers_total} layers unpacked"
    if not pull.bytes_total:
        return layers
    done, total = size_for_people(pull.bytes_done), size_for_people(pull.bytes_total)
    return f"{done} of {total}, {layers}"


def gave_up(status: Status, step: str, doing: str, *, after_s: float, in_all: bool) -> str:
    """Return the sentence for a start that took longer than it may."""
    where = f"{status} (step {step})" if step else str(status)
    how_long = f"{after_s:g} s in all, then" if in_all else f"{after_s:g} s"
    return f"Gave up after {how_long} in {where}: {doing}"
