"""What the tests of the store put into it, and how they count what is there."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from backendai_jupyter.domain.records import NewSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import AgentReport, Image, Mount
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.tables import agent_slots, allocations, users

ONE_CPU = Slots({"cpu": 1, "mem": 1 << 30})


def new_session(**fields: Any) -> NewSession:
    sample = NewSession(
        id=str(uuid.uuid4()),
        owner="owner",
        name="nb.ipynb",
        cluster_id="here",
        kernelspec="backendai-python",
        image="python",
        argv=("python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        env={"LANG": "C.UTF-8", "NAME": "Ünïcode"},
        slots=ONE_CPU,
        mounts=(Mount(source="/srv/v/data", target="/home/work/data", readonly=True),),
        workdir="/home/work/data",
    )
    return replace(sample, **fields)


def report(agent_id: str, **capacity: Any) -> AgentReport:
    return AgentReport(
        agent_id=agent_id,
        revision=1,
        version="1.0",
        capacity=Slots(capacity),
        images=(Image(name="python", reference="backendai-python:latest", runtime="docker"),),
        notes=("no cgroup here",),
    )


async def add_user(database: Database, name: str) -> str:
    async with database.write() as conn:
        values = {"id": f"id-of-{name}", "name": name, "created_at": 1.0}
        await conn.execute(sa.insert(users).values(**values))
    return f"id-of-{name}"


async def counters(database: Database) -> dict[str, tuple[int, int]]:
    """Return (reserved, used) in thousandths for each slot, over all agents."""
    columns = (
        agent_slots.c.slot,
        sa.func.sum(agent_slots.c.reserved),
        sa.func.sum(agent_slots.c.used),
    )
    async with database.read() as conn:
        rows = await conn.execute(sa.select(*columns).group_by(agent_slots.c.slot))
        return {slot: (reserved, used) for slot, reserved, used in rows}


async def held(database: Database, kernel_id: str) -> dict[str, tuple[int, int, float | None]]:
    """Return (reserved, used, freed_at) for each slot of a kernel's ledger rows."""
    query = sa.select(allocations).where(allocations.c.kernel_id == kernel_id)
    async with database.read() as conn:
        rows = await conn.execute(query)
        return {r.slot: (r.reserved, r.used, r.freed_at) for r in rows}
