"""How a kernel changes its status: one guarded UPDATE, and all that follows from it.

Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.members import status_of
from backendai_jupyter.domain.records import ComputeSession, Kernel, Viewer
from backendai_jupyter.domain.states import FINAL, Status, sources_of
from backendai_jupyter.domain.wire import Exit
from backendai_jupyter.errors import LostRace, NotFound
from backendai_jupyter.store import ledger
from backendai_jupyter.store.rows import (
    KERNEL_ORDER,
    exit_text,
    select_sessions,
    to_sessions,
)
from backendai_jupyter.store.tables import kernel_history, kernels, sessions

# Built once: that costs more than running them.
_SESSION = (
    select_sessions()
    .where(sessions.c.id == sa.bindparam("session"))
    .order_by(*KERNEL_ORDER)
    .with_for_update()
)
_SESSION_OF_KERNEL = (
    select_sessions()
    .where(
        sessions.c.id
        == sa.select(kernels.c.session_id)
        .where(kernels.c.id == sa.bindparam("kernel"))
        .scalar_subquery()
    )
    .order_by(*KERNEL_ORDER)
    .with_for_update()
)
_UPDATE_KERNEL = sa.update(kernels).where(
    kernels.c.id == sa.bindparam("kernel"),
    kernels.c.status.in_(sa.bindparam("sources", expanding=True)),
)
_UPDATE_SESSION = sa.update(sessions).where(sessions.c.id == sa.bindparam("session"))
_INSERT_STEP = sa.insert(kernel_history)


@dataclass(frozen=True, slots=True)
class Move:
    to: Status
    reason: str
    by: str
    now: float
    exit: Exit | None = None
    agent_id: str | None = None  # only of a move to SCHEDULED


async def lock_session(conn: AsyncConnection, session_id: str, viewer: Viewer) -> ComputeSession:
    """Return the session and keep others from changing it until the transaction ends."""
    session = _first(await conn.execute(_SESSION, {"session": session_id}))
    if session is None or not viewer.may_see(session.owner):
        raise NotFound(f"There is no session {session_id}.")
    return session


async def lock_session_of(
    conn: AsyncConnection, kernel_id: str, viewer: Viewer
) -> tuple[ComputeSession, Kernel]:
    """Lock the session that the kernel is a member of, and return both."""
    session = _first(await conn.execute(_SESSION_OF_KERNEL, {"kernel": kernel_id}))
    if session is None or not viewer.may_see(session.owner):
        raise NotFound(f"There is no kernel {kernel_id}.")
    return session, next(k for k in session.kernels if k.id == kernel_id)


async def move_kernels(
    conn: AsyncConnection, session: ComputeSession, moves: Mapping[str, Move]
) -> None:
    """Make ``moves`` (by kernel id) and keep the locked session's own status in step.

    Raises ``LostRace`` if any of them is not legal any more.
    """
    in_order = {k.id: _not_before(k, moves[k.id]) for k in session.kernels if k.id in moves}
    after = {kernel.id: kernel for kernel in session.kernels}
    # By agent, then by slot: so no two transactions wait for each other's rows of the ledger.
    for kernel in sorted(session.kernels, key=lambda k: _agent_of(k, moves.get(k.id))):
        if (move := in_order.get(kernel.id)) is not None:
            after[kernel.id] = await _move(conn, kernel, move)
    latest = max(move.now for move in in_order.values())
    await _follow(conn, session, list(after.values()), now=latest)


async def write_step(
    conn: AsyncConnection, kernel_id: str, before: Status | None, move: Move
) -> None:
    step = {
        "kernel_id": kernel_id,
        "before": before,
        "after": move.to,
        "reason": move.reason,
        "by": move.by,
        "at": move.now,
    }
    await conn.execute(_INSERT_STEP, step)


def end_of(kernel: Kernel) -> Status:
    """Return what becomes of a kernel whose end is asked for now."""
    return Status.CANCELLED if kernel.status is Status.PENDING else Status.TERMINATING


def _first(rows: Iterable[Any]) -> ComputeSession | None:
    return next(iter(to_sessions(rows)), None)


def _agent_of(kernel: Kernel, move: Move | None) -> str:
    return (move.agent_id if move else None) or kernel.agent_id or ""


def _not_before(kernel: Kernel, move: Move) -> Move:
    """Let no step be before the last: another manager's clock is another, and ours may be set."""
    return replace(move, now=max(move.now, kernel.status_since))


async def _move(conn: AsyncConnection, kernel: Kernel, move: Move) -> Kernel:
    guard = {"kernel": kernel.id, "sources": sorted(sources_of(move.to))}
    moved = await conn.execute(_UPDATE_KERNEL, {**guard, **_changes(move)})
    if moved.rowcount != 1:
        raise LostRace(f"Kernel {kernel.id} is {kernel.status} and cannot become {move.to}.")
    await write_step(conn, kernel.id, kernel.status, move)
    if move.agent_id is not None:
        await ledger.reserve(conn, kernel, move.agent_id)
    if move.to is Status.RUNNING:
        await ledger.occupy(conn, kernel)
    if move.to in FINAL or move.to is Status.PENDING:
        await ledger.free(conn, kernel, now=move.now)
    return replace(kernel, status=move.to, status_reason=move.reason)


def _changes(move: Move) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "status": move.to,
        "status_reason": move.reason,
        "status_since": move.now,
    }
    if move.to is Status.RUNNING:
        changes["exit"] = None  # whatever ended it before, it is back
    elif move.exit is not None:
        changes["exit"] = exit_text(move.exit)
    if move.agent_id is not None or move.to is Status.PENDING:
        changes["agent_id"] = move.agent_id
    return changes


async def _follow(
    conn: AsyncConnection, session: ComputeSession, after: list[Kernel], *, now: float
) -> None:
    status, reason = status_of(session, after)
    if (status, reason) == (session.status, session.status_reason):
        return
    changes: dict[str, Any] = {"status": status, "status_reason": reason}
    if status is Status.RUNNING and session.started_at is None:
        changes["started_at"] = now
    if status in FINAL:
        changes["ended_at"] = now
    await conn.execute(_UPDATE_SESSION, {"session": session.id, **changes})
