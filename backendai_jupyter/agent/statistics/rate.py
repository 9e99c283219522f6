"""How fast a counter grows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

SHORTEST_S = 0.05  # of two readings closer than that a difference says little


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was measured: for people, and for differences."""

    time_s: float = field(default_factory=time.time)
    monotonic_s: float = field(default_factory=time.monotonic)


class Rate:
    """The growth of one counter per second between two readings."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None  # value, monotonic time
        self._rate: float | None = None

    def at(self, value: float, moment: Moment) -> float | None:
        """Return the rate since the last reading; None at the first one, or if it fell."""
        now_s = moment.monotonic_s
        if self._before is not None and now_s - self._before[1] < SHORTEST_S:
            return self._rate
        before, self._before = self._before, (value, now_s)
        if before is None or value < before[0]:
            self._rate = None
        else:
            self._rate = round((value - before[0]) / (now_s - before[1]), 3)
        return self._rate
