"""Batch sessions in the database: the end of one attempt may be the beginning of another.

Everything here runs inside the caller's transaction, which has locked the session.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.batch_ends import is_tried_again, why_again
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.moves import Move
from backendai_jupyter.store.tables import kernels, sessions

_SESSION = sa.update(sessions).where(sessions.c.id == sa.bindparam("session"))
_NO_MORE = _SESSION.values(retries_left=0)
_ONE_LESS = _SESSION.values(retries_left=sessions.c.retries_left - 1)
_NEXT = (
    sa.update(kernels)
    .where(kernels.c.id == sa.bindparam("kernel"))
    .values(generation=kernels.c.generation + 1, exit=None)
)


def end_of_attempt(session: ComputeSession, kernel: Kernel, move: Move) -> Move:
    """Return what becomes of a kernel that ``move`` would end: it may wait for another attempt.

    Why an attempt has ended is said once: what happens to its remains does not replace it.
    """
    is_batch = session.batch is not None and kernel.id == session.main.id
    if not is_batch or kernel.status is not Status.TERMINATING:
        return move
    if move.to is not Status.TERMINATED:
        return move
    if not is_tried_again(session, kernel.exit):
        return replace(move, exit=None)
    return Move(Status.PENDING, why_again(session, kernel), move.by, move.now)


async def begin_next_attempt(conn: AsyncConnection, session: ComputeSession) -> None:
    """Count an attempt whose kernel waits again."""
    await conn.execute(_ONE_LESS, {"session": session.id})
    for kernel in session.kernels:
        await conn.execute(_NEXT, {"kernel": kernel.id})


async def try_no_more(conn: AsyncConnection, session: ComputeSession) -> None:
    """Let no other attempt follow: somebody has asked for the session's end."""
    if session.batch is not None and session.retries_left:
        await conn.execute(_NO_MORE, {"session": session.id})
