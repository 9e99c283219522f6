"""How long sessions run: what those before them took, and how long one that runs may go on.  Pure.

Sessions of one owner and one name, a notebook's for example, are the best guide to each other;
then all sessions of an owner in a resource group, then all of the group.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from backendai_jupyter.domain.records import Run

ENOUGH = 3  # run times that say something
UNKNOWN = (0.0, math.inf)


class Subject(Protocol):
    """A session of which one wants to know how long it runs."""

    @property
    def owner(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...


class RunTimes:
    """The run times of sessions that have ended."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._times: dict[Hashable, list[float]] = {}
        for run in runs:
            for key in _keys(run):
                insort(self._times.setdefault(key, []), run.seconds)

    def __bool__(self) -> bool:
        return bool(self._times)

    def left(self, subject: Subject, *, elapsed_s: float = 0.0) -> tuple[float, float]:
        """Return how many more seconds it runs: a quarter ran shorter, a quarter longer.

        Of those that ran as long as it has; ``UNKNOWN`` if it has outlived all, or if there are
        too few.
        """
        for key in _keys(subject):
            times = self._times.get(key, ())
            if len(times) >= ENOUGH:
                longer = times[bisect_right(times, elapsed_s) :]
                return _quartiles(longer, elapsed_s) if longer else UNKNOWN
        return UNKNOWN


def _keys(subject: Subject | Run) -> Sequence[Hashable]:
    owner, group = subject.owner, subject.group
    return (owner, subject.name, group), (owner, group), (group,)


def _quartiles(longer: Sequence[float], elapsed_s: float) -> tuple[float, float]:
    last = len(longer) - 1
    return longer[last // 4] - elapsed_s, longer[last - last // 4] - elapsed_s
