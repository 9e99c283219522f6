"""Agents as they were last reported, with what is left of their slots."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from backendai_jupyter.domain.records import Agent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent, upsert
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.tables import (
    agent_slots,
    agents,
    from_thousandths,
    to_thousandths,
)


class AgentStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    async def record(self, report: AgentReport, *, now: float) -> None:
        """Keep what an agent says of itself; what is reserved and used is the ledger's.

        A slot that it does not offer any more has capacity 0 until its kernels have ended.
        """
        agent = {
            "id": report.agent_id,
            "version": report.version,
            "images": json.dumps([image.name for image in report.images]),
            "notes": json.dumps(report.notes),
            "seen_at": now,
        }
        offered = [
            {
                "agent_id": report.agent_id,
                "slot": slot,
                "capacity": to_thousandths(amount),
                "reserved": 0,
                "used": 0,
            }
            for slot, amount in report.capacity.items()
        ]
        async with self._database.write() as conn:
            await upsert(conn, agents, [agent], update=("version", "images", "notes", "seen_at"))
            await upsert(conn, agent_slots, offered, update=("capacity",))
            await conn.execute(
                sa.update(agent_slots)
                .where(
                    agent_slots.c.agent_id == report.agent_id,
                    agent_slots.c.slot.not_in(list(report.capacity)),
                )
                .values(capacity=0)
            )

    @retried
    async def introduce(self, agent_id: str, version: str, *, now: float) -> None:
        """Keep that there is an agent of which no more is understood; one that is known stays."""
        agent = {"id": agent_id, "version": version, "images": "[]", "notes": "[]", "seen_at": now}
        async with self._database.write() as conn:
            await insert_if_absent(conn, agents, agent)

    @retried
    async def set_drained(self, agent_id: str, is_drained: bool) -> None:
        """Let nothing new start on an agent, or let it again."""
        async with self._database.write() as conn:
            told = await conn.execute(
                sa.update(agents).where(agents.c.id == agent_id).values(is_drained=is_drained)
            )
            if told.rowcount != 1:
                raise NotFound(f"There is no agent {agent_id}.")

    async def list(self) -> tuple[Agent, ...]:
        """Return every agent ever seen, by id."""
        async with self._database.read() as conn:
            return _to_agents(await conn.execute(_agents()))

    async def get(self, agent_id: str) -> Agent:
        async with self._database.read() as conn:
            found = _to_agents(await conn.execute(_agents().where(agents.c.id == agent_id)))
        if not found:
            raise NotFound(f"There is no agent {agent_id}.")
        return found[0]


def _agents() -> sa.Select[Any]:
    columns = (
        agent_slots.c.slot,
        agent_slots.c.capacity,
        agent_slots.c.reserved,
        agent_slots.c.used,
    )
    query = sa.select(*agents.c, *columns).join_from(agents, agent_slots, isouter=True)
    return query.order_by(agents.c.id, agent_slots.c.slot)


def _to_agents(rows: Iterable[Any]) -> tuple[Agent, ...]:
    slots: dict[str, list[Any]] = {}
    for row in rows:
        slots.setdefault(row.id, []).append(row)
    return tuple(_to_agent(its_rows) for its_rows in slots.values())


def _to_agent(rows: list[Any]) -> Agent:
    offered = [row for row in rows if row.slot is not None]
    return Agent(
        id=rows[0].id,
        version=rows[0].version,
        capacity=Slots({row.slot: from_thousandths(row.capacity) for row in offered}),
        used=Slots({row.slot: from_thousandths(row.reserved + row.used) for row in offered}),
        images=tuple(json.loads(rows[0].images)),
        notes=tuple(json.loads(rows[0].notes)),
        seen_at=rows[0].seen_at,
        is_drained=rows[0].is_drained,
    )
