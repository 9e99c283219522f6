"""Tell those that wait when they may start; asked only by people, so that no pass waits for it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backendai_jupyter.domain.records import Occupant
from backendai_jupyter.manager.scheduler.estimate import estimate
from backendai_jupyter.manager.scheduler.runtimes import RunTimes
from backendai_jupyter.manager.scheduler.snapshot import Decision, Snapshot, Waiting
from backendai_jupyter.store.runs import RunStore

_HISTORY_S = 30.0  # how old what is known of run times may be
_OCCUPANTS_S = 2.0  # and of what runs now


@dataclass(frozen=True, slots=True)
class Passed:
    """What was decided, of what."""

    snapshot: Snapshot
    decisions: Sequence[Decision]


class Foresight:
    def __init__(
        self, cluster_id: str, runs: RunStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster_id = cluster_id
        self._runs = runs
        self._clock = clock
        self._times = RunTimes(())
        self._times_at = -math.inf
        self._occupants: tuple[Occupant, ...] = ()
        self._occupants_at = -math.inf

    async def add(self, passed: Passed) -> Sequence[Decision]:
        """Return the decisions with an estimate for each that waits, where there is one."""
        if not any(isinstance(decision, Waiting) for decision in passed.decisions):
            return passed.decisions
        await self._read()
        found = await asyncio.to_thread(
            estimate, passed.snapshot, passed.decisions, self._occupants, self._times
        )
        return [
            replace(decision, estimate=found.get(decision.session.id))
            if isinstance(decision, Waiting)
            else decision
            for decision in passed.decisions
        ]

    async def _read(self) -> None:
        if self._clock() - self._times_at > _HISTORY_S:
            runs = await self._runs.ended(self._cluster_id)
            self._times = await asyncio.to_thread(RunTimes, runs)
            self._times_at = self._clock()
        if self._clock() - self._occupants_at > _OCCUPANTS_S:
            self._occupants = await self._runs.occupants(self._cluster_id)
            self._occupants_at = self._clock()
