"""Give up starts that take longer than they may, and say in which phase they were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backendai_jupyter.domain.progress import StartLimits, gave_up
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import LostRace
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

_BY = "time limit"


@dataclass(frozen=True, slots=True)
class _Seen:
    """When a start was first seen, and when in the status that it has now."""

    status: Status
    since: float
    begun: float


class Deadlines:
    """Looks at the board only, so that a pass while nothing starts costs nothing.

    Time is counted from when a start was first seen, by a clock that never jumps.
    """

    def __init__(
        self,
        board: Board,
        sessions: SessionStore,
        *,
        limits: Callable[[], StartLimits],
        changed: Callable[[], None],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._sessions = sessions
        self._limits = limits
        self._changed = changed
        self._now = now
        self._clock = clock
        self._seen: dict[tuple[str, int], _Seen] = {}  # by kernel and generation

    async def step(self) -> None:
        """One pass over all kernels that are on their way up."""
        starting = self._board.starting()
        self._look(starting)
        limits = self._limits()
        for notice in starting:
            ending = self._over(notice, limits)
            if ending is not None:
                await self._give_up(notice, ending)

    def _look(self, starting: list[Notice]) -> None:
        now, before = self._clock(), self._seen
        self._seen = {}
        for notice in starting:
            key = (notice.kernel_id, notice.generation)
            seen = before.get(key) or _Seen(notice.status, now, now)
            if seen.status is not notice.status:
                seen = _Seen(notice.status, now, seen.begun)
            self._seen[key] = seen

    def _over(self, notice: Notice, limits: StartLimits) -> Exit | None:
        """Return the certificate of a start that has taken too long."""
        seen, now = self._seen[notice.kernel_id, notice.generation], self._clock()
        limit_s, total_s = limits.of(notice.status), limits.total_s
        if limit_s and now - seen.since >= limit_s:
            return _certificate(notice, limit_s, in_all=False)
        if total_s and now - seen.begun >= total_s:
            return _certificate(notice, total_s, in_all=True)
        return None

    async def _give_up(self, notice: Notice, ending: Exit) -> None:
        try:
            await self._sessions.give_up(
                notice.kernel_id, notice.status, exit=ending, by=_BY, now=self._now()
            )
        except LostRace as error:
            log.debug("%s", error)  # it got on at the last moment
        else:
            log.warning("kernel %s: %s", notice.kernel_id, ending.message)
            self._changed()


def _certificate(notice: Notice, after_s: float, *, in_all: bool) -> Exit:
    message = gave_up(notice.status, notice.step, notice.message, after_s=after_s, in_all=in_all)
    return Exit(reason=ExitReason.TIMED_OUT, message=message, step=notice.step)
