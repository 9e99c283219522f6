"""Sessions of several kernels on PostgreSQL: many at once over the same agents, all or nothing."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import HOLDS_SLOTS, Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import LostRace, NoCapacity
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.members import MemberStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from tests.postgres import CleanDatabase
from tests.unit.store.samples import counters, new_session, report

AGENTS, ROOM, SESSIONS = ("a", "b"), 3, 12
FAILED = Exit(reason=ExitReason.STEP_FAILED, message="No.")


@pytest.fixture
async def database(clean_postgres: CleanDatabase) -> Database:
    opened = await Database.open(clean_postgres())
    for agent_id in AGENTS:
        await AgentStore(opened).record(report(agent_id, cpu=ROOM, mem=ROOM << 30), now=1.0)
    return opened


async def two(database: Database) -> ComputeSession:
    owner = await UserStore(database).ensure_owner(now=1.0)
    new = new_session(owner=owner.id, cluster_size=2)
    return await SessionStore(database).create(new, now=1.0)


async def test_claims_of_opposite_agents_neither_wait_for_each_other_nor_oversell(
    database: Database,
) -> None:
    created = [await two(database) for _ in range(SESSIONS)]
    sessions = SessionStore(database)

    async def claim(number: int) -> bool:
        places = AGENTS if number % 2 else tuple(reversed(AGENTS))
        kernels = [kernel.id for kernel in created[number].kernels]
        placement = dict(zip(kernels, places, strict=True))
        try:
            await sessions.claim(created[number].id, placement, reason="", by="x", now=2.0)
        except NoCapacity:
            return False
        return True

    won = await asyncio.gather(*(claim(number) for number in range(SESSIONS)))
    assert sum(won) == ROOM
    assert (await counters(database))["cpu"] == (2 * ROOM * 1000, 0)
    for session, has_won in zip(created, won, strict=True):
        now = await sessions.get(session.id, SYSTEM)
        assert {k.status in HOLDS_SLOTS for k in now.kernels} == {has_won}
    await database.close()


async def test_of_two_that_see_failures_one_takes_all_back(database: Database) -> None:
    session = await two(database)
    sessions, members = SessionStore(database), MemberStore(database)
    placement = {kernel.id: "a" for kernel in session.kernels}
    await sessions.claim(session.id, placement, reason="", by="x", now=2.0)

    async def take_back(kernel_id: str) -> bool:
        try:
            return await members.take_back(
                kernel_id, Status.SCHEDULED, attempt=0, exit=FAILED, attempts=3, by="x", now=3.0
            )
        except LostRace:
            return False

    won = await asyncio.gather(*(take_back(k.id) for k in session.kernels for _ in range(2)))
    assert sum(won) == 1
    now = await sessions.get(session.id, SYSTEM)
    assert (now.status, now.attempts, now.failed_on) == (Status.RESCHEDULING, 1, ("a",))
    assert (await counters(database))["cpu"] == (2000, 0)
    for kernel in now.kernels:
        await sessions.move(kernel.id, Status.PENDING, reason="", by="x", now=4.0)
    assert (await sessions.get(session.id, SYSTEM)).status is Status.PENDING
    assert (await counters(database))["cpu"] == (0, 0)
    await sessions.claim(session.id, placement, reason="", by="x", now=5.0)
    assert not await take_back(session.main.id)  # what failed is the start before this one
    assert (await sessions.get(session.id, SYSTEM)).status is Status.SCHEDULED
    await database.close()
