"""Which sessions wait for which: what was asked for, what is met, and what can never be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.records import SYSTEM, Parent, Relative, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.moves import Move, lock_session, move_kernels
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.rows import visible_to
from backendai_jupyter.store.tables import session_dependencies, sessions

_INSERT = sa.insert(session_dependencies)
_CHILD, _PARENT = sessions.alias("child"), sessions.alias("parent")
_LINKS = session_dependencies.join(_CHILD, _CHILD.c.id == session_dependencies.c.session_id).join(
    _PARENT, _PARENT.c.id == session_dependencies.c.parent_id
)
_WAITS = (
    _CHILD.c.cluster_id == sa.bindparam("cluster"),
    _CHILD.c.ended_at.is_(None),
    _CHILD.c.status == Status.PENDING,
    session_dependencies.c.met_at.is_(None),
)
_UNMET = (
    sa.select(session_dependencies.c.session_id, _PARENT.c.id, _PARENT.c.name)
    .select_from(_LINKS)
    .where(*_WAITS)
    .order_by(session_dependencies.c.session_id, _PARENT.c.id)
)
_OVER = (
    sa.select(session_dependencies.c.parent_id, session_dependencies.c.session_id)
    .select_from(_LINKS)
    .where(*_WAITS, _PARENT.c.ended_at.is_not(None))
    .order_by(session_dependencies.c.parent_id, session_dependencies.c.session_id)
)
_MEET = (
    sa.update(session_dependencies)
    .where(
        session_dependencies.c.parent_id == sa.bindparam("parent"),
        session_dependencies.c.met_at.is_(None),
    )
    .values(met_at=sa.bindparam("now", type_=sa.Double))
)
_AMBIGUOUS = 2  # so many of one name are too many


class DependencyStore:
    """Of sessions that their viewer may see; methods without one are the system's own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def named(self, wanted: str, viewer: Viewer) -> Sequence[Relative]:
        """Return the session with this id, or those with this name: the living, else the last."""
        columns = _relative(sessions).where(visible_to(viewer, sessions))
        by_name = columns.where(sessions.c.name == wanted)
        living = by_name.where(sessions.c.ended_at.is_(None)).order_by(sessions.c.id)
        last = by_name.order_by(sessions.c.ended_at.desc(), sessions.c.id).limit(1)
        queries = (columns.where(sessions.c.id == wanted), living.limit(_AMBIGUOUS), last)
        async with self._database.read() as conn:
            for query in queries:
                found = [_to_relative(row) for row in await conn.execute(query)]
                if found:
                    return found
        return ()

    async def of(
        self, session_id: str, viewer: Viewer
    ) -> tuple[Sequence[Relative], Sequence[Relative]]:
        """Return the sessions that this one depends on, and those that depend on it."""
        me, others = session_dependencies.c.session_id, session_dependencies.c.parent_id
        async with self._database.read() as conn:
            return (
                await _linked(conn, session_id, viewer, mine=me, theirs=others),
                await _linked(conn, session_id, viewer, mine=others, theirs=me),
            )

    async def over(self, cluster_id: str) -> dict[str, list[str]]:
        """Return what waits for sessions that have ended: ids, by the id of the ended one."""
        found: dict[str, list[str]] = {}
        async with self._database.read() as conn:
            for row in await conn.execute(_OVER, {"cluster": cluster_id}):
                found.setdefault(row.parent_id, []).append(row.session_id)
        return found

    @retried
    async def meet(self, parent_id: str, *, now: float) -> None:
        """Take note that a session has ended well; doing so twice is harmless."""
        async with self._database.write() as conn:
            await conn.execute(_MEET, {"parent": parent_id, "now": now})

    @retried
    async def cancel(self, session_id: str, *, reason: str, by: str, now: float) -> bool:
        """Cancel a session that waits; False if it does not wait any more."""
        async with self._database.write() as conn:
            session = await lock_session(conn, session_id, SYSTEM)
            if session.status is not Status.PENDING:
                return False
            move = Move(Status.CANCELLED, reason, by, now)
            await move_kernels(conn, session, {kernel.id: move for kernel in session.kernels})
        return True


async def insert_dependencies(
    conn: AsyncConnection, session_id: str, parents: Sequence[Parent], *, now: float
) -> None:
    """Write what a new session depends on, in the transaction that writes it."""
    rows = [
        {"session_id": session_id, "parent_id": one.id, "met_at": now if one.is_met else None}
        for one in parents
    ]
    if rows:
        await conn.execute(_INSERT, rows)


async def read_unmet(conn: AsyncConnection, cluster_id: str) -> dict[str, tuple[Parent, ...]]:
    """Return what the waiting sessions of a cluster wait for, by their ids.

    In a transaction that has read who waits before: whoever is seen to wait is seen with them.
    """
    found: dict[str, tuple[Parent, ...]] = {}
    for row in await conn.execute(_UNMET, {"cluster": cluster_id}):
        found[row.session_id] = (*found.get(row.session_id, ()), Parent(row.id, row.name))
    return found


async def _linked(
    conn: AsyncConnection,
    session_id: str,
    viewer: Viewer,
    *,
    mine: sa.Column[Any],
    theirs: sa.Column[Any],
) -> Sequence[Relative]:
    query = (
        _relative(sessions, session_dependencies.c.met_at.is_not(None).label("is_met"))
        .join_from(sessions, session_dependencies, theirs == sessions.c.id)
        .where(mine == session_id, visible_to(viewer, sessions))
        .order_by(sessions.c.created_at, sessions.c.id)
    )
    return [_to_relative(row, is_met=bool(row.is_met)) for row in await conn.execute(query)]


def _relative(table: sa.Table, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return sa.select(table.c.id, table.c.name, table.c.status, table.c.status_reason, *more)


def _to_relative(row: Any, *, is_met: bool = False) -> Relative:
    return Relative(row.id, row.name, Status(row.status), row.status_reason, is_met)
