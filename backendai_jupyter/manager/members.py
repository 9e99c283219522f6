"""What becomes of the other kernels of a session when one cannot start, or has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

from backendai_jupyter.domain.endings import is_of_the_agent
from backendai_jupyter.domain.members import OVER, end_of_the_others
from backendai_jupyter.domain.records import ComputeSession, Kernel, Viewer
from backendai_jupyter.domain.states import HOLDS_SLOTS
from backendai_jupyter.domain.wire import Exit
from backendai_jupyter.errors import LostRace
from backendai_jupyter.manager.board import Board
from backendai_jupyter.store.members import MemberStore

log = logging.getLogger(__name__)


class Members:
    """Of sessions of several kernels; for one that is alone it only finds another agent.

    Every manager has one.
    """

    def __init__(
        self,
        store: MemberStore,
        board: Board,
        *,
        attempts: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._board = board
        self._attempts = attempts
        self._now = now

    async def end(self, kernel_id: str, viewer: Viewer, *, reason: str) -> None:
        """Ask for the end of one kernel; ending one that has ended succeeds."""
        await self._store.end_kernel(
            kernel_id, viewer, reason=reason, by=viewer.user_id, now=self._now()
        )

    async def taken_back(
        self, session: ComputeSession, kernel: Kernel, exit: Exit | None, *, by: str
    ) -> bool:
        """Whether a kernel that cannot start was taken back, with all of its session.

        One that is alone only if another agent may do better.  False too where it has been tried
        often enough: then its end is told.
        """
        if session.started_at is not None or exit is None or kernel.status in OVER:
            return False
        if len(session.kernels) == 1 and not self._may_do_better(session, kernel, exit):
            return False
        try:
            return await self._store.take_back(
                kernel.id,
                kernel.status,
                attempt=session.attempts,
                exit=exit,
                attempts=self._attempts(),
                by=by,
                now=self._now(),
            )
        except LostRace as error:
            log.debug("%s", error)  # another manager has seen it too
            return True

    def _may_do_better(self, session: ComputeSession, kernel: Kernel, exit: Exit) -> bool:
        """Whether a start failed for a reason of its agent, and there is one not tried yet."""
        tried = {*session.failed_on, kernel.agent_id}
        return is_of_the_agent(exit) and any(
            agent_id not in tried and report.resource_group == session.resource_group
            for agent_id, report in self._board.reports.items()
        )

    async def ended_with_those_gone(self, session: ComputeSession) -> bool:
        """Whether kernels were ended now because others of their session have."""
        if len(session.kernels) == 1 or end_of_the_others(session) is None:
            return False
        return await self._store.end_with_those_gone(
            session.id, by=f"policy {session.failure_policy}", now=self._now()
        )

    def waits_for_network(self, session: ComputeSession, kernel: Kernel) -> bool:
        """Whether the last kernel of a session has gone, and its network has not.

        Without that kernel the session would be forgotten, or placed anew, before its network.
        """
        others = (k for k in session.kernels if k.id != kernel.id)
        if len(session.kernels) == 1 or any(k.status in HOLDS_SLOTS for k in others):
            return False
        reports = self._board.reports.values()
        return any(n.session_id == session.id for report in reports for n in report.networks)
