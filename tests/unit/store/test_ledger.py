"""The ledger: nobody gets what is not there, and everything comes back."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, TRANSITIONS, Status
from backendai_jupyter.errors import LostRace, NoCapacity
from backendai_jupyter.store import ledger
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.rows import allocation_values, kernel_values
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.tables import allocations, kernels
from backendai_jupyter.store.users import UserStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import ONE_CPU, counters, held, new_session, report

GIB = 1 << 30
NOTHING = {"cpu": (0, 0), "mem": (0, 0)}


async def claim(sessions: SessionStore, session: ComputeSession, agent_id: str = "a1") -> None:
    placement = {kernel.id: agent_id for kernel in session.kernels}
    await sessions.claim(session.id, placement, reason="", by="scheduler", now=11.0)


async def move(sessions: SessionStore, session: ComputeSession, to: Status) -> None:
    await sessions.move(session.main.id, to, reason="", by="a1", now=12.0)


async def attempt(work: object) -> bool:
    try:
        await work  # type: ignore[misc]
    except (LostRace, NoCapacity):
        return False
    return True


async def test_slots_are_reserved_then_used_then_given_back(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    session = await make_session()
    await claim(sessions, session)
    assert await counters(database) == {"cpu": (1000, 0), "mem": (GIB * 1000, 0)}
    assert (await sessions.get(session.id, SYSTEM)).main.agent_id == "a1"
    await move(sessions, session, Status.RUNNING)
    assert await counters(database) == {"cpu": (0, 1000), "mem": (0, GIB * 1000)}
    assert (await agents.get("a1")).free == Slots({"cpu": 3, "mem": 7 * GIB})
    await move(sessions, session, Status.TERMINATING)
    assert (await agents.get("a1")).used == ONE_CPU  # until its container is gone
    await move(sessions, session, Status.TERMINATED)
    assert await counters(database) == NOTHING
    assert await held(database, session.main.id) == {"cpu": (0, 0, 12.0), "mem": (0, 0, 12.0)}


async def test_a_kernel_put_back_in_the_queue_gives_its_slots_back_and_can_be_placed_again(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F13: a kernel that waits again holds nothing."""
    session = await make_session()
    await claim(sessions, session)
    await move(sessions, session, Status.PENDING)
    assert await counters(database) == NOTHING
    assert (await sessions.get(session.id, SYSTEM)).main.agent_id is None
    await agents.record(report("a2", cpu=1, mem=GIB), now=12.0)
    await claim(sessions, session, "a2")
    await move(sessions, session, Status.RUNNING)
    assert (await agents.get("a2")).free == Slots()
    assert (await agents.get("a1")).used == Slots()
    await move(sessions, session, Status.ERROR)
    assert await counters(database) == NOTHING


async def test_freeing_twice_is_harmless(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F12: a second end of a kernel takes nothing twice."""
    one, other = await make_session(), await make_session()
    for session in (one, other):
        await claim(sessions, session)
        await move(sessions, session, Status.RUNNING)
    await move(sessions, one, Status.ERROR)
    with pytest.raises(LostRace):
        await move(sessions, one, Status.ERROR)
    ended = (await sessions.get(one.id, SYSTEM)).main
    async with database.write() as conn:
        await ledger.free(conn, ended, now=20.0)
    assert await counters(database) == {"cpu": (0, 1000), "mem": (0, GIB * 1000)}
    assert (await held(database, ended.id))["cpu"] == (0, 0, 12.0)


async def test_a_claim_that_does_not_fit_changes_nothing(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F15, F17: half a claim is none, and a slot that an agent lacks is not there."""
    big = await make_session(slots=Slots({"cpu": 4, "mem": 9 * GIB}))
    with pytest.raises(NoCapacity, match="mem 9 GiB"):
        await claim(sessions, big)
    with pytest.raises(NoCapacity, match="a9"):
        await claim(sessions, big, "a9")
    gpu = await make_session(slots=Slots({"cpu": 1, "cuda.device": 1}))
    with pytest.raises(NoCapacity, match=r"cuda\.device 1"):
        await claim(sessions, gpu)
    assert await counters(database) == NOTHING
    assert await sessions.get(big.id, SYSTEM) == big
    assert len(await sessions.history(gpu.id, SYSTEM)) == 1


async def test_kernels_of_a_session_are_placed_all_or_none(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F15: half a session is none."""
    session = await make_session(slots=Slots({"cpu": 3}))
    await add_sibling(database, session)
    pair = await sessions.get(session.id, SYSTEM)
    assert [k.hostname for k in pair.kernels] == ["main1", "sub1"]
    with pytest.raises(NoCapacity):
        await claim(sessions, pair)  # each fits, both do not
    assert await counters(database) == NOTHING
    assert await sessions.get(session.id, SYSTEM) == pair
    await agents.record(report("a1", cpu=6, mem=8 * GIB), now=12.0)
    await claim(sessions, pair)
    assert (await counters(database))["cpu"] == (6000, 0)
    for kernel, status in zip(pair.kernels, (Status.SCHEDULED, Status.RUNNING), strict=True):
        await sessions.move(kernel.id, Status.RUNNING, reason="", by="a1", now=13.0)
        assert (await sessions.get(session.id, SYSTEM)).status is status
    await sessions.move(kernel.id, Status.ERROR, reason="lost", by="a1", now=14.0)
    assert (await sessions.get(session.id, SYSTEM)).status is Status.TERMINATING
    await sessions.terminate(session.id, SYSTEM, reason="", by="x", now=15.0)
    await move(sessions, pair, Status.TERMINATED)
    ended = await sessions.get(session.id, SYSTEM)
    assert (ended.status, ended.status_reason) == (Status.ERROR, "lost")
    assert await counters(database) == NOTHING


async def add_sibling(database: Database, session: ComputeSession) -> None:
    sibling = replace(session.main, id=f"{session.main.id}-2", role="sub")
    async with database.write() as conn:
        await conn.execute(sa.insert(kernels).values(kernel_values(sibling)))
        await conn.execute(sa.insert(allocations), allocation_values(sibling))


async def test_fractions_add_up_exactly(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    await agents.record(report("a1", **{"cuda.shares": 1}), now=12.0)
    tenth = Slots.parse({"cuda.shares": "0.1"})
    results = [await attempt(claim(sessions, await make_session(slots=tenth))) for _ in range(11)]
    assert results == [True] * 10 + [False]


async def test_claims_at_once_never_overcommit(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F19: schedulers at once do not overcommit an agent."""
    waiting = [await make_session() for _ in range(12)]
    won = await asyncio.gather(*(attempt(claim(sessions, session)) for session in waiting))
    assert sum(won) == 4
    assert (await counters(database))["cpu"] == (4000, 0)


async def test_claims_of_two_processes_never_overcommit(
    url: str,
    database: Database,
    sessions: SessionStore,
    agents: AgentStore,
    make_session: MakeSession,
) -> None:
    """F19: nor do those of two processes."""
    await agents.record(report("a1", cpu=25, mem=64 * GIB), now=12.0)
    ids = [(await make_session()).id for _ in range(40)]
    command = (sys.executable, "-m", "tests.unit.store.claimer", url, "a1")
    started = [
        await asyncio.create_subprocess_exec(*command, *order, stdout=asyncio.subprocess.PIPE)
        for order in (ids, ids[::-1])
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert sum(int(out) for out, _ in outputs) == 25
    assert (await counters(database))["cpu"] == (25_000, 0)


async def test_of_two_who_claim_the_same_session_one_wins(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    session = await make_session()
    won = await asyncio.gather(*(attempt(claim(sessions, session)) for _ in range(5)))
    assert sum(won) == 1
    assert (await counters(database))["cpu"] == (1000, 0)


async def test_of_moves_at_once_exactly_one_wins(
    url: str,
    database: Database,
    sessions: SessionStore,
    agents: AgentStore,
    make_session: MakeSession,
) -> None:
    other_manager = await Database.open(url)
    session = await make_session()
    await claim(sessions, session)
    managers = [sessions, SessionStore(other_manager)] * 4
    for to in (Status.RUNNING, Status.TERMINATING, Status.TERMINATED):
        won = await asyncio.gather(*(attempt(move(manager, session, to)) for manager in managers))
        assert sum(won) == 1
    assert len(await sessions.history(session.id, SYSTEM)) == 5
    assert await counters(database) == NOTHING
    await other_manager.close()


steps = st.lists(st.sampled_from([*Status, "restart", "terminate"]), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(walk=steps)
def test_no_walk_over_the_statuses_loses_or_keeps_slots(
    walk: list[Status | str], tmp_path_factory: pytest.TempPathFactory, migrated: object
) -> None:
    """F14: what is counted for an agent is what its kernels hold, whatever happens to them."""
    path = tmp_path_factory.mktemp("walk") / "backendai.db"
    path.write_bytes(migrated.read_bytes())  # type: ignore[attr-defined]
    asyncio.run(walk_and_check(f"sqlite+aiosqlite:///{path}", walk))


async def walk_and_check(url: str, walk: list[Status | str]) -> None:
    database = await Database.open(url)
    sessions = SessionStore(database)
    await AgentStore(database).record(report("a1", cpu=1, mem=GIB), now=1.0)
    owner = await UserStore(database).ensure_owner(now=1.0)
    session = await sessions.create(new_session(owner=owner.id), now=1.0)
    for step in walk:
        before = (await sessions.get(session.id, SYSTEM)).main.status
        moved = await attempt(take(sessions, session, step))
        after = await sessions.get(session.id, SYSTEM)
        if isinstance(step, Status):
            assert moved == (step in TRANSITIONS[before])
            assert after.main.status == (step if moved else before)
        assert after.status is after.main.status
        assert (after.ended_at is not None) == (after.status in FINAL)
        assert is_right(after, *(await counters(database))["cpu"])
    await database.close()


async def take(sessions: SessionStore, session: ComputeSession, step: Status | str) -> None:
    if step == "terminate":
        await sessions.terminate(session.id, SYSTEM, reason="", by="x", now=2.0)
    elif step == "restart":
        kernel = (await sessions.get(session.id, SYSTEM)).main
        if kernel.status in {Status.RUNNING, Status.RESTARTING, Status.CREATING}:
            await sessions.restart(kernel.id, SYSTEM, generation=kernel.generation, by="x", now=2.0)
    elif step is Status.SCHEDULED:
        await claim(sessions, session)
    else:
        await move(sessions, session, Status(step))


def is_right(session: ComputeSession, reserved: int, used: int) -> bool:
    status = session.main.status
    if status in FINAL or status is Status.PENDING:
        return (reserved, used) == (0, 0)
    if status in {Status.SCHEDULED, Status.PREPARING, Status.PULLING, Status.CREATING}:
        return (reserved, used) == (1000, 0)
    if status is Status.RUNNING:
        return (reserved, used) == (0, 1000)
    return (reserved, used) in {(1000, 0), (0, 1000)}  # it may not have run yet
