"""How long sessions have run, and what those that are there hold: what estimates are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from backendai_jupyter.domain.records import Occupant, Run
from backendai_jupyter.domain.states import HOLDS_SLOTS, Status
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.rows import KERNEL_ORDER, to_slots
from backendai_jupyter.store.tables import kernel_history, kernels, sessions

REMEMBERED = 2000  # sessions that ended last

_BEGAN = (
    sa.select(sa.func.min(kernel_history.c.at))
    .where(kernel_history.c.kernel_id == kernels.c.id, kernel_history.c.after == Status.RUNNING)
    .scalar_subquery()
    .label("began")
)
_OF_SESSION = (sessions.c.owner, sessions.c.name, sessions.c.resource_group)
_LAST = (
    sa.select(sessions.c.id, sessions.c.ended_at, *_OF_SESSION)
    .where(
        sessions.c.cluster_id == sa.bindparam("cluster"),
        sessions.c.ended_at.is_not(None),
        sessions.c.status == Status.TERMINATED,
    )
    .order_by(sessions.c.ended_at.desc())
    .limit(REMEMBERED)
    .subquery()
)
_ENDED = (
    sa.select(_LAST, _BEGAN)
    .join_from(_LAST, kernels, kernels.c.session_id == _LAST.c.id)
    .where(kernels.c.role == "main", kernels.c.idx == 1)
)
_HOLDING = (
    sa.select(
        sessions.c.id.label("session_id"),
        *_OF_SESSION,
        kernels.c.agent_id,
        kernels.c.slots,
        kernels.c.status,
        _BEGAN,
    )
    .join_from(sessions, kernels)
    .where(
        sessions.c.cluster_id == sa.bindparam("cluster"),
        sessions.c.ended_at.is_(None),
        kernels.c.status.in_(sorted(HOLDS_SLOTS)),
        kernels.c.agent_id.is_not(None),
    )
    .order_by(*KERNEL_ORDER)
)


class RunStore:
    """The system's own view: it has no viewer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ended(self, cluster_id: str) -> tuple[Run, ...]:
        """Return how long the sessions ran that have ended last."""
        async with self._database.read() as conn:
            rows = (await conn.execute(_ENDED, {"cluster": cluster_id})).all()
        return tuple(
            Run(row.owner, row.name, row.resource_group, max(0.0, row.ended_at - row.began))
            for row in rows
            if row.began is not None
        )

    async def occupants(self, cluster_id: str) -> tuple[Occupant, ...]:
        """Return the sessions that hold slots, by id."""
        async with self._database.read() as conn:
            rows = (await conn.execute(_HOLDING, {"cluster": cluster_id})).all()
        members: dict[str, list[Any]] = {}
        for row in rows:
            members.setdefault(row.session_id, []).append(row)
        return tuple(_to_occupant(one) for one in members.values())


def _to_occupant(kernels: Sequence[Any]) -> Occupant:
    first = kernels[0]
    began = [row.began for row in kernels if row.began is not None]
    return Occupant(
        id=first.session_id,
        owner=first.owner,
        name=first.name,
        group=first.resource_group,
        since=min(began, default=0.0),
        is_ending=all(row.status == Status.TERMINATING for row in kernels),
        holds=tuple((row.agent_id, to_slots(row.slots).to_amounts()) for row in kernels),
    )
