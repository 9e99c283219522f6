"""Sessions of several kernels: what the end of one, or its failed start, means for the others."""

from __future__ import annotations

import json

import sqlalchemy as sa

from backendai_jupyter.domain.members import OVER, end_of_the_others, taken_back
from backendai_jupyter.domain.records import SYSTEM, Viewer
from backendai_jupyter.domain.states import ASSIGNED, Status
from backendai_jupyter.domain.wire import Exit
from backendai_jupyter.errors import LostRace
from backendai_jupyter.store.batch import try_no_more
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.moves import Move, end_of, lock_session, lock_session_of, move_kernels
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.tables import sessions


class MemberStore:
    """Guarded writes; each method is one transaction over all kernels of a session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    async def end_kernel(
        self, kernel_id: str, viewer: Viewer, *, reason: str, by: str, now: float
    ) -> None:
        """Ask for the end of one kernel; what has ended or is about to is left alone."""
        async with self._database.write() as conn:
            session, kernel = await lock_session_of(conn, kernel_id, viewer)
            await try_no_more(conn, session)
            if kernel.status not in OVER:
                await move_kernels(
                    conn, session, {kernel.id: Move(end_of(kernel), reason, by, now)}
                )

    @retried
    async def end_with_those_gone(self, session_id: str, *, by: str, now: float) -> bool:
        """End the kernels of a session that must not outlive those that have ended, if any."""
        async with self._database.write() as conn:
            session = await lock_session(conn, session_id, SYSTEM)
            ending = end_of_the_others(session)
            if ending is None:
                return False
            moves = {
                other.id: Move(end_of(other), ending.message, by, now, ending)
                for other in session.kernels
                if other.status not in OVER
            }
            if moves:
                await move_kernels(conn, session, moves)
        return bool(moves)

    @retried
    async def take_back(
        self,
        kernel_id: str,
        at: Status,
        *,
        attempt: int,
        exit: Exit,
        attempts: int,
        by: str,
        now: float,
    ) -> bool:
        """Take back all kernels of a session that starts together, of which one could not.

        Its agent is remembered.  False where the session is not starting together, or was tried
        ``attempts`` times; nothing has changed then.  Raises ``LostRace`` if the kernel has
        another status than ``at`` meanwhile, or the session was taken back more often than
        ``attempt`` times.
        """
        async with self._database.write() as conn:
            session, kernel = await lock_session_of(conn, kernel_id, SYSTEM)
            if (kernel.status, session.attempts) != (at, attempt):
                now_at = f"{kernel.status} in attempt {session.attempts}"
                raise LostRace(f"Kernel {kernel_id} is {now_at}, not {at} in {attempt}.")
            if session.started_at is not None or session.attempts + 1 >= attempts:
                return False
            if any(other.status in OVER for other in session.kernels):
                return False  # its end was asked for
            failed_on = sorted({*session.failed_on, kernel.agent_id or ""} - {""})
            reason = taken_back(kernel, exit, is_alone=len(session.kernels) == 1)
            moves = {
                other.id: Move(Status.RESCHEDULING, reason, by, now)
                for other in session.kernels
                if other.status in ASSIGNED
            }
            await move_kernels(conn, session, moves)
            await conn.execute(
                sa.update(sessions)
                .where(sessions.c.id == session.id)
                .values(attempts=session.attempts + 1, failed_on=json.dumps(failed_on))
            )
        return True
