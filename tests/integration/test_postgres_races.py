"""Many at once on PostgreSQL: nobody gets what is not there, and nothing is left in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.errors import InDoubt, LostRace, NoCapacity
from backendai_jupyter.store import ledger
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.tables import agent_slots
from backendai_jupyter.store.users import UserStore
from tests.helpers import eventually
from tests.integration.database_proxy import Loss, ProxyThatLosesCommits
from tests.postgres import CleanDatabase, PrivatePostgres
from tests.unit.one_machine import OneMachine
from tests.unit.store.samples import ONE_CPU, counters, new_session, report

ROOM, SESSIONS, MANAGERS = 3, 12, 4


@pytest.fixture
async def managers(clean_postgres: CleanDatabase) -> AsyncIterator[list[Database]]:
    """Databases of several managers: each has connections of its own."""
    url = clean_postgres()
    opened = [await Database.open(url) for _ in range(MANAGERS)]
    yield opened
    for database in opened:
        await database.close()


async def live(database: Database, session: ComputeSession, order: list[str]) -> int:
    """Claim until there is room, run, end; returns how often there was none."""
    sessions, refused = SessionStore(database), 0
    while True:
        try:
            placement = {session.main.id: "a1"}
            await sessions.claim(session.id, placement, reason="", by="x", now=2.0)
            break
        except NoCapacity:
            refused += 1
    for to in (Status.RUNNING, Status.TERMINATING, Status.TERMINATED):
        await sessions.move(session.main.id, to, reason="", by="x", now=3.0)
        order.append(to)
    return refused


async def test_sessions_that_come_and_go_at_once_never_oversell(
    managers: list[Database],
) -> None:
    database = managers[0]
    agents, sessions = AgentStore(database), SessionStore(database)
    capacity = {"cpu": ROOM, "mem": ROOM << 30, "cuda.device": ROOM}
    await agents.record(report("a1", **capacity), now=1.0)
    owner = await UserStore(database).ensure_owner(now=1.0)
    slots = Slots({"cpu": 1, "mem": 1 << 30, "cuda.device": 1})
    created = [
        await sessions.create(new_session(owner=owner.id, slots=slots), now=1.0)
        for _ in range(SESSIONS)
    ]
    order: list[str] = []
    living = asyncio.gather(
        *(
            live(managers[number % MANAGERS], session, order)
            for number, session in enumerate(created)
        )
    )
    most = 0
    while not living.done():
        reserved, used = (await counters(database))["cpu"]
        most = max(most, int(reserved + used))
        await agents.record(report("a1", **capacity), now=2.0 + most)
    await living
    assert 0 < most <= 1000 * ROOM
    assert order.count(Status.TERMINATED) == SESSIONS
    assert set((await counters(database)).values()) == {(0, 0)}


async def test_a_claim_and_an_end_that_meet_do_not_wait_for_each_other(
    managers: list[Database], postgres: PrivatePostgres
) -> None:
    database = managers[0]
    agents, sessions = AgentStore(database), SessionStore(database)
    capacity = {"cpu": 4, "mem": 4 << 30}
    await agents.record(report("a1", **capacity), now=1.0)
    owner = await UserStore(database).ensure_owner(now=1.0)
    old, new = [
        await sessions.create(new_session(owner=owner.id, slots=ONE_CPU), now=1.0) for _ in "12"
    ]
    placement = {old.main.id: "a1"}
    await sessions.claim(old.id, placement, reason="", by="x", now=2.0)
    async with database.write() as conn:  # which moves cpu behind mem: claims go the other way
        move_last = sa.update(agent_slots).where(agent_slots.c.slot == "cpu")
        await conn.execute(move_last.values(capacity=agent_slots.c.capacity))
        await conn.execute(sa.text("ANALYZE"))  # else an index is used, and hides the rows' order
    said_before = len(postgres.log)
    async with database.write() as conn:
        await ledger.reserve(conn, replace(new.main, slots=Slots({"cpu": 1})), "a1")
        ending = asyncio.create_task(
            SessionStore(managers[1]).move(old.main.id, Status.ERROR, reason="", by="x", now=3.0)
        )
        await eventually(lambda: is_somebody_waiting(managers[2]))
        await ledger.reserve(conn, replace(new.main, slots=Slots({"mem": 1 << 30})), "a1")
    await ending
    assert "deadlock detected" not in postgres.log[said_before:]


async def is_somebody_waiting(database: Database) -> bool:
    async with database.read() as conn:
        query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(await conn.scalar(query))


async def test_of_managers_that_make_the_same_move_at_once_exactly_one_wins(
    managers: list[Database],
) -> None:
    database = managers[0]
    owner = await UserStore(database).ensure_owner(now=1.0)
    session = await SessionStore(database).create(new_session(owner=owner.id), now=1.0)

    async def cancel(manager: Database) -> bool:
        try:
            await SessionStore(manager).move(
                session.main.id, Status.CANCELLED, reason="", by="x", now=2.0
            )
        except LostRace:
            return False
        return True

    assert sum(await asyncio.gather(*(cancel(m) for m in managers * 4))) == 1
    assert len(await SessionStore(database).history(session.id, SYSTEM)) == 2


async def test_a_start_that_was_left_in_doubt_is_ended_when_the_database_is_back(
    postgres: PrivatePostgres, clean_postgres: CleanDatabase, short_tmp_path: Path
) -> None:
    url = clean_postgres()
    async with ProxyThatLosesCommits.before(postgres.port) as proxy:
        machine = OneMachine(short_tmp_path, url.replace(f":{postgres.port}", f":{proxy.port}"))
        await machine.start()
        running = await machine.started()
        proxy.refuses, proxy.loses = True, Loss.OF_ITS_ANSWER
        with pytest.raises(InDoubt, match="may have been made or not"):
            await machine.ask_for()
        proxy.let_in()
        database = await Database.open(url)

        async def over() -> bool:
            found = await SessionStore(database).list(SYSTEM)
            others = [s for s in found if s.id != running.id]
            return len(others) == 1 and others[0].status in FINAL

        await eventually(over)
        assert (await SessionStore(database).get(running.id, SYSTEM)).status is Status.RUNNING
        await database.close()
        await machine.kill()
