"""Sessions that wait: as much of them as the scheduler needs, and what their owners are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from backendai_jupyter.domain.records import Parent, WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Amounts, Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.store.dependencies import read_unmet
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import lock_in_order
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.rows import KERNEL_ORDER, to_mounts, to_slots
from backendai_jupyter.store.tables import allocations, from_thousandths, kernels, sessions

_AT_ONCE = 500  # in one transaction: others must be able to write in between

_WAITING = (
    sa.select(
        sessions.c.id.label("session_id"),
        sessions.c.owner,
        sessions.c.resource_group,
        sessions.c.priority,
        sessions.c.created_at,
        sessions.c.not_before,
        sessions.c.status_reason,
        sessions.c.cluster_mode,
        sessions.c.failed_on,
        sessions.c.name,
        kernels.c.id,
        kernels.c.image,
        kernels.c.slots,
        kernels.c.mounts,
    )
    .join_from(sessions, kernels)
    .where(
        sessions.c.cluster_id == sa.bindparam("cluster"),
        sessions.c.ended_at.is_(None),
        sessions.c.status == Status.PENDING,
    )
    .order_by(*KERNEL_ORDER)
)
_USAGE = (
    sa.select(
        sessions.c.resource_group,
        sessions.c.owner,
        allocations.c.slot,
        sa.func.sum(allocations.c.reserved + allocations.c.used).label("held"),
    )
    .join_from(sessions, kernels)
    .join(allocations)
    .where(
        sessions.c.cluster_id == sa.bindparam("cluster"),
        sessions.c.ended_at.is_(None),
        allocations.c.freed_at.is_(None),
    )
    .group_by(sessions.c.resource_group, sessions.c.owner, allocations.c.slot)
)
_LOCK = (
    sa.select(sessions.c.id)
    .where(sessions.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(sessions.c.id)
)
_TELL_KERNELS = (
    sa.update(kernels)
    .where(kernels.c.session_id == sa.bindparam("session"), kernels.c.status == Status.PENDING)
    .values(status_reason=sa.bindparam("reason"))
)
_TELL_SESSION = (
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("session"), sessions.c.status == Status.PENDING)
    .values(status_reason=sa.bindparam("reason"))
)


class QueueStore:
    """The system's own view: it has no viewer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self, cluster_id: str) -> tuple[WaitingSession, ...]:
        """Return the ``PENDING`` sessions of a cluster, by id."""
        async with self._database.read() as conn:
            rows = (await conn.execute(_WAITING, {"cluster": cluster_id})).all()
            parents = await read_unmet(conn, cluster_id)
        return await asyncio.to_thread(_to_waiting, rows, parents)

    async def usage(self, cluster_id: str) -> dict[str, dict[str, Slots]]:
        """Return what all kernels of each owner hold together, by resource group and owner."""
        held: dict[str, dict[str, dict[str, Any]]] = {}
        async with self._database.read() as conn:
            for row in await conn.execute(_USAGE, {"cluster": cluster_id}):
                mine = held.setdefault(row.resource_group, {}).setdefault(row.owner, {})
                mine[row.slot] = from_thousandths(int(row.held))
        return {
            group: {owner: Slots(amounts) for owner, amounts in owners.items()}
            for group, owners in held.items()
        }

    async def tell(self, reasons: Mapping[str, str]) -> None:
        """Say why sessions wait, by their ids; those that wait no more are left alone."""
        ids = sorted(reasons)
        for start in range(0, len(ids), _AT_ONCE):
            await self._tell({i: reasons[i] for i in ids[start : start + _AT_ONCE]})

    @retried
    async def _tell(self, reasons: Mapping[str, str]) -> None:
        changes = [{"session": i, "reason": reason} for i, reason in reasons.items()]
        async with self._database.write() as conn:
            await lock_in_order(conn, _LOCK, {"ids": list(reasons)})
            await conn.execute(_TELL_KERNELS, changes)
            await conn.execute(_TELL_SESSION, changes)


def _to_waiting(
    rows: Sequence[Any], parents: Mapping[str, tuple[Parent, ...]]
) -> tuple[WaitingSession, ...]:
    """Read rows in the order of sessions; texts that many have in common are read once."""

    @cache
    def wanted(text: str) -> Amounts:
        return to_slots(text).to_amounts()

    @cache
    def hosts(text: str) -> frozenset[str]:
        return frozenset(mount.vfolder_host for mount in to_mounts(text)) - {""}

    members: dict[str, list[WaitingKernel]] = {}
    firsts: dict[str, Any] = {}
    for row in rows:
        firsts.setdefault(row.session_id, row)
        kernel = WaitingKernel(row.id, row.image, wanted(row.slots), hosts(row.mounts))
        members.setdefault(row.session_id, []).append(kernel)
    return tuple(
        WaitingSession(
            id=row.session_id,
            owner=row.owner,
            group=row.resource_group,
            priority=row.priority,
            created_at=row.created_at,
            kernels=tuple(members[row.session_id]),
            not_before=row.not_before,
            status_reason=row.status_reason,
            mode=ClusterMode(row.cluster_mode),
            failed_on=frozenset(json.loads(row.failed_on)),
            name=row.name,
            parents=parents.get(row.session_id, ()),
        )
        for row in firsts.values()
    )
