"""Lists of sessions for people: what they look for, page by page."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.records import ComputeSession, Selection, Viewer
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.rows import KERNEL_ORDER, select_sessions, to_sessions, visible_to
from backendai_jupyter.store.tables import sessions


async def find_sessions(
    conn: AsyncConnection, viewer: Viewer, wanted: Selection
) -> tuple[ComputeSession, ...]:
    """Return what is wanted and the viewer may see.

    A page begins after the session ``wanted.after``, so that neither what comes nor what ends
    meanwhile shifts it; raises ``NotFound`` if the viewer sees no such session.
    """
    at = sessions.c.created_at
    query = sa.select(sessions.c.id).where(visible_to(viewer, sessions), *_filters(wanted))
    if wanted.after is not None:
        last = sa.select(at, sessions.c.id).where(
            sessions.c.id == wanted.after, visible_to(viewer, sessions)
        )
        row = (await conn.execute(last)).one_or_none()
        if row is None:
            raise NotFound(f"There is no session {wanted.after}.")
        beyond = at > row.created_at if wanted.oldest_first else at < row.created_at
        later = sa.and_(at == row.created_at, sessions.c.id > row.id)
        query = query.where(sa.or_(beyond, later))
    order = (at if wanted.oldest_first else at.desc(), sessions.c.id)
    if wanted.limit is not None:
        query = query.order_by(*order).limit(wanted.limit)
    whole = select_sessions().where(sessions.c.id.in_(query)).order_by(*order, *KERNEL_ORDER)
    return to_sessions(await conn.execute(whole))


def _filters(wanted: Selection) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.statuses:
        found.append(sessions.c.status.in_(sorted(wanted.statuses)))
    if wanted.since is not None:
        found.append(sessions.c.created_at >= wanted.since)
    equal = {
        sessions.c.resource_group: wanted.resource_group,
        sessions.c.owner: wanted.owner,
        sessions.c.name: wanted.name,
    }
    return found + [column == value for column, value in equal.items() if value is not None]
