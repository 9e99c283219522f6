"""Agents, users and presets."""

from __future__ import annotations

import asyncio
import base64
import re

import pytest
import sqlalchemy as sa

from backendai_jupyter.domain.records import User
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.presets import PresetStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.tables import keypairs
from backendai_jupyter.store.users import UserStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import report

GIB = 1 << 30


async def test_an_agent_is_read_back_as_it_was_reported(agents: AgentStore) -> None:
    agent = await agents.get("a1")
    assert agent.capacity == agent.free == Slots({"cpu": 4, "mem": 8 * GIB})
    assert (agent.images, agent.notes) == (("python",), ("no cgroup here",))
    await agents.record(report("a0"), now=2.0)
    assert [(a.id, a.seen_at) for a in await agents.list()] == [("a0", 2.0), ("a1", 1.0)]
    with pytest.raises(NotFound, match="a9"):
        await agents.get("a9")


async def test_a_drained_agent_stays_drained_whatever_it_reports(agents: AgentStore) -> None:
    assert not (await agents.get("a1")).is_drained
    await agents.set_drained("a1", True)
    await agents.record(report("a1"), now=3.0)
    assert (await agents.get("a1")).is_drained
    await agents.set_drained("a1", False)
    assert not (await agents.get("a1")).is_drained
    with pytest.raises(NotFound, match="a9"):
        await agents.set_drained("a9", True)


async def test_a_report_changes_the_capacity_and_not_what_is_held(
    agents: AgentStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    held = Slots({"cpu": 1, "mem": GIB})
    one, other = [await make_session(slots=held) for _ in range(2)]
    for session in (one, other):
        placement = {session.main.id: "a1"}
        await sessions.claim(session.id, placement, reason="", by="x", now=1.0)
    await sessions.move(one.main.id, Status.RUNNING, reason="", by="a1", now=1.0)
    await agents.record(report("a1", cpu=1), now=5.0)
    shrunk = await agents.get("a1")
    assert (shrunk.capacity, shrunk.used) == (Slots({"cpu": 1}), held + held)
    await agents.record(report("a1", cpu=8, mem=8 * GIB), now=6.0)
    grown = await agents.get("a1")
    assert (grown.free, grown.seen_at) == (Slots({"cpu": 6, "mem": 6 * GIB}), 6.0)


async def test_starts_at_once_make_one_owner_with_one_keypair(url: str) -> None:
    opened = [await Database.open(url) for _ in range(3)]
    stores = [UserStore(database) for database in opened] * 3
    owners = await asyncio.gather(*(store.ensure_owner(now=1.0) for store in stores))
    assert len(set(owners)) == 1
    async with opened[0].read() as conn:
        assert await conn.scalar(sa.select(sa.func.count()).select_from(keypairs)) == 1
    for database in opened:
        await database.close()


async def test_the_owner_has_a_keypair_of_the_known_form(database: Database, owner: User) -> None:
    users = UserStore(database)
    keypair = await users.keypair_of(owner.id)
    assert await users.get(owner.id) == owner == User(owner.id, "owner")
    assert await users.keypair(keypair.access_key) == keypair
    assert re.fullmatch("AKIA[A-Z2-7]{16}", keypair.access_key)
    assert len(base64.b32decode(keypair.access_key[4:])) == 10
    assert re.fullmatch("[A-Za-z0-9_-]{40}", keypair.secret_key)
    assert keypair.secret_key not in repr(keypair)


async def test_a_keypair_that_was_switched_off_is_not_handed_out(
    database: Database, owner: User
) -> None:
    users = UserStore(database)
    keypair = await users.keypair_of(owner.id)
    async with database.write() as conn:
        await conn.execute(sa.update(keypairs).values(is_active=False))
    assert not (await users.keypair(keypair.access_key)).is_active
    with pytest.raises(NotFound):
        await users.keypair_of(owner.id)
    with pytest.raises(NotFound):
        await users.keypair("AKIA")
    with pytest.raises(NotFound):
        await users.get("nobody")


async def test_three_presets_are_there_from_the_start(database: Database) -> None:
    presets = PresetStore(database)
    assert [preset.name for preset in await presets.list()] == ["large", "medium", "small"]
    assert (await presets.get("small")).slots == Slots({"cpu": 1, "mem": GIB})
    assert (await presets.get("medium")).slots == Slots({"cpu": 2, "mem": 4 * GIB})
    assert (await presets.get("large")).slots == Slots({"cpu": 4, "mem": 8 * GIB})
    with pytest.raises(NotFound, match="'huge'; known are large, medium, small"):
        await presets.get("huge")
