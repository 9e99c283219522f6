"""Jupyter's own sessions: which notebook or console has which kernel, for all servers at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.cluster import SUB
from backendai_jupyter.domain.members import OVER
from backendai_jupyter.domain.records import JupyterSession, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import LostRace, NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.rows import visible_to
from backendai_jupyter.store.tables import jupyter_sessions, kernels, sessions

# Of those with one path, the one that holds it comes first.
_ORDER = (
    jupyter_sessions.c.path_digest.is_(None),
    jupyter_sessions.c.created_at,
    jupyter_sessions.c.id,
)


_ATTEMPTS = 5  # to write a session while the one that is in its way ends


class JupyterSessionStore:
    """Reads and guarded writes; each is one transaction.

    A path is *held* by one session of its owner, and whoever adds a session to a path that is
    held gets that one instead.  A session that is given another path later may share it:
    JupyterLab makes a new session under a path that nobody has and then moves it to the
    notebook's, which the session before it may still have while it ends.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    async def add(
        self, session: JupyterSession, *, now: float, may_share: bool = False
    ) -> JupyterSession:
        """Write a session and return it, or the one that holds its path already.

        One that ``may_share`` is written in any case.
        """
        values = {**_values(session), "path_digest": _digest(session.path), "created_at": now}
        for _ in range(_ATTEMPTS):
            async with self._database.write() as conn:
                if await insert_if_absent(conn, jupyter_sessions, values):
                    return session
                if may_share:
                    values["path_digest"] = None
                elif (holder := await _in_the_way_of(conn, values)) is not None:
                    return holder
        raise LostRace(f"The sessions of {session.path!r} come and go; try again.")

    async def find(self, viewer: Viewer, **wanted: str | None) -> tuple[JupyterSession, ...]:
        """Return the viewer's sessions whose fields are as ``wanted``, oldest first."""
        conditions = [jupyter_sessions.c[field] == value for field, value in wanted.items()]
        query = _select().where(visible_to(viewer, jupyter_sessions), *conditions)
        async with self._database.read() as conn:
            return tuple(_to_record(row) for row in await conn.execute(query.order_by(*_ORDER)))

    async def change(
        self, session_id: str, viewer: Viewer, changes: Mapping[str, str | None]
    ) -> JupyterSession:
        """Overwrite fields of a session; a new path is held if nobody else does."""
        if "path" not in changes:
            return await self._change(session_id, viewer, changes)
        try:
            held = {**changes, "path_digest": _digest(changes["path"])}
            return await self._change(session_id, viewer, held)
        except sa.exc.IntegrityError:  # the path is all that it can collide with
            return await self._change(session_id, viewer, {**changes, "path_digest": None})

    @retried
    async def remove(self, session: JupyterSession) -> None:
        """Delete a session, unless it has another kernel meanwhile; succeeds if it is gone."""
        removal = sa.delete(jupyter_sessions).where(
            jupyter_sessions.c.id == session.id,
            jupyter_sessions.c.owner == session.owner,
            jupyter_sessions.c.kernel_id == session.kernel_id,
        )
        async with self._database.write() as conn:
            await conn.execute(removal)

    async def kernel_lives(self, kernel_id: str, viewer: Viewer) -> bool:
        """Whether a compute session for this kernel of Jupyter's has not ended, nor is to."""
        is_main = sa.func.coalesce(sessions.c.jupyter_kernel_id, sessions.c.id) == kernel_id
        others = sa.select(kernels.c.session_id).where(
            kernels.c.id == kernel_id,
            kernels.c.role == SUB,
            kernels.c.status.not_in(sorted(OVER)),
        )
        query = sa.select(sessions.c.id).where(
            visible_to(viewer, sessions),
            sa.or_(is_main, sessions.c.id.in_(others)),
            sessions.c.ended_at.is_(None),
            sessions.c.status != Status.TERMINATING,
        )
        async with self._database.read() as conn:
            return (await conn.execute(query.limit(1))).first() is not None

    @retried
    async def _change(
        self, session_id: str, viewer: Viewer, values: Mapping[str, str | None]
    ) -> JupyterSession:
        its = (visible_to(viewer, jupyter_sessions), jupyter_sessions.c.id == session_id)
        change = sa.update(jupyter_sessions).where(*its).values(dict(values))
        async with self._database.write() as conn:
            await conn.execute(change)
            row = (await conn.execute(_select().where(*its))).one_or_none()
        if row is None:
            raise NotFound(f"There is no Jupyter session {session_id}.")
        return _to_record(row)


async def _in_the_way_of(conn: AsyncConnection, values: Mapping[str, Any]) -> JupyterSession | None:
    """Return the session with the same id or path; None if it has gone since it was met."""
    same = jupyter_sessions.c.id == values["id"]
    if values["path_digest"] is not None:
        same |= jupyter_sessions.c.path_digest == values["path_digest"]
    query = _select().where(jupyter_sessions.c.owner == values["owner"], same).limit(1)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _to_record(row)


def _select() -> sa.Select[Any]:
    return sa.select(jupyter_sessions)


def _digest(path: str | None) -> str | None:
    """Return what stands for a path in the unique key; PostgreSQL has no key as long as a path."""
    return None if path is None else hashlib.sha256(path.encode()).hexdigest()


def _values(session: JupyterSession) -> dict[str, Any]:
    return {field: getattr(session, field) for field in JupyterSession.__slots__}


def _to_record(row: Any) -> JupyterSession:
    return JupyterSession(
        id=row.id,
        owner=row.owner,
        path=row.path,
        name=row.name,
        type=row.type,
        kernel_id=row.kernel_id,
    )
