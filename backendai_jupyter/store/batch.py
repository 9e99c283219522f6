"""Batch sessions in the database: the end of one attempt may be the beginning of another.

Everything here runs inside the caller's transaction, which has locked the session.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.batch_ends import is_tried_again, why_again
from backendai_jupyter.domain.members import OVER
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import LostRace
from backendai_jupyter.store.moves import Move
from backendai_jupyter.store.tables import kernels, sessions

_READY = OVER | {Status.PENDING}  # to be tried again, as soon as it is gone
_SESSION = sa.update(sessions).where(sessions.c.id == sa.bindparam("session"))
_NO_MORE = _SESSION.values(retries_left=0)
_ONE_LESS = _SESSION.values(
    retries_left=sessions.c.retries_left - 1, started_at=None, attempts=0
)  # its kernels start together, as they did the first time
_NEXT = (
    sa.update(kernels)
    .where(kernels.c.session_id == sa.bindparam("session"))
    .values(generation=kernels.c.generation + 1, exit=None)
)


def end_of_attempt(session: ComputeSession, kernel: Kernel, move: Move) -> Move:
    """Return what becomes of a kernel that ``move`` would end: it may wait for another attempt.

    Why an attempt has ended is said once: what happens to its remains does not replace it.
    Raises ``LostRace`` while another kernel of the session was not told to end: it is as long
    unknown why the attempt has ended.
    """
    if session.batch is None or kernel.status is not Status.TERMINATING:
        return move
    if move.to is not Status.TERMINATED:
        return move
    going_on = [k.hostname for k in session.kernels if k.status not in _READY]
    if session.retries_left and going_on:
        raise LostRace(f"Kernel {kernel.id} waits for the end of {', '.join(going_on)}.")
    if is_tried_again(session, session.main.exit):
        return Move(Status.PENDING, why_again(session, kernel), move.by, move.now)
    return replace(move, exit=None) if kernel.id == session.main.id else move


async def begin_next_attempt(conn: AsyncConnection, session: ComputeSession, last: Kernel) -> None:
    """Count an attempt if all kernels wait again but ``last``, which has just begun to."""
    others = (kernel for kernel in session.kernels if kernel.id != last.id)
    if all(other.status is Status.PENDING for other in others):
        await conn.execute(_ONE_LESS, {"session": session.id})
        await conn.execute(_NEXT, {"session": session.id})


async def try_no_more(conn: AsyncConnection, session: ComputeSession) -> None:
    """Let no other attempt follow: somebody has asked for the session's end."""
    if session.batch is not None and session.retries_left:
        await conn.execute(_NO_MORE, {"session": session.id})
