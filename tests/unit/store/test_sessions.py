"""Sessions: what is written is read back, by those who may see it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from backendai_jupyter.domain.records import SYSTEM, Selection, User, Viewer
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import ClusterMode, Exit, ExitReason
from backendai_jupyter.errors import Conflict, LostRace, NotFound
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import add_user, held, new_session, report

CRASH = Exit(reason=ExitReason.EXITED, message="It exited with code 3.", code=3, log_tail="boom")


async def run(sessions: SessionStore, session_id: str) -> str:
    """Bring a session's kernel to RUNNING on a1 and return the kernel's id."""
    kernel_id = (await sessions.get(session_id, SYSTEM)).main.id
    await sessions.claim(session_id, {kernel_id: "a1"}, reason="", by="scheduler", now=11.0)
    await sessions.move(kernel_id, Status.RUNNING, reason="", by="a1", now=12.0)
    return kernel_id


async def test_a_session_is_read_back_as_it_was_created(
    sessions: SessionStore, owner: User
) -> None:
    slots = Slots({"cpu": 1, "mem": (1 << 45) + 1})
    new = new_session(owner=owner.id, slots=slots, kernel_id="k-1")
    created = await sessions.create(new, now=10.0)
    assert created == await sessions.get(new.id, SYSTEM)
    assert created == await sessions.of_kernel("k-1", SYSTEM)
    assert created.status is Status.PENDING
    assert (created.main.hostname, created.main.generation) == ("main1", 1)
    assert (created.main.env, created.main.mounts) == (new.env, new.mounts)
    assert (created.main.argv, created.main.slots) == (new.argv, slots)


async def test_ids_are_used_once(sessions: SessionStore, make_session: MakeSession) -> None:
    first = await make_session(kernel_id="k-1")
    with pytest.raises(Conflict, match=first.id):
        await make_session(id=first.id)
    with pytest.raises(Conflict, match="k-1"):
        await make_session(id="other", kernel_id="k-1")
    assert await sessions.list(SYSTEM) == (first,)


async def test_a_session_needs_an_owner_who_exists(sessions: SessionStore) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await sessions.create(new_session(owner="nobody"), now=1.0)


async def test_a_session_without_slots_can_be_placed(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    session = await make_session(slots=Slots())
    await run(sessions, session.id)
    assert (await sessions.get(session.id, SYSTEM)).status is Status.RUNNING


async def test_what_a_viewer_may_not_see_does_not_exist(
    database: Database, sessions: SessionStore, owner: User, make_session: MakeSession
) -> None:
    stranger = Viewer(await add_user(database, "stranger"))
    session = await make_session()
    kernel_id = session.main.id
    with pytest.raises(NotFound):
        await sessions.get(session.id, stranger)
    with pytest.raises(NotFound):
        await sessions.of_kernel(kernel_id, stranger)
    with pytest.raises(NotFound):
        await sessions.history(session.id, stranger)
    with pytest.raises(NotFound):
        await sessions.restart(kernel_id, stranger, generation=1, by="x", now=11.0)
    with pytest.raises(NotFound):
        await sessions.request_signal(kernel_id, 2, stranger)
    with pytest.raises(NotFound):
        await sessions.terminate(session.id, stranger, reason="", by="x", now=11.0)
    assert await sessions.list(stranger) == ()
    assert await sessions.list(Viewer(owner.id)) == (session,)
    assert await sessions.get(session.id, Viewer(owner.id)) == session


@pytest.mark.parametrize("unknown", ["", "no-such-id"])
async def test_unknown_ids_are_not_found(sessions: SessionStore, unknown: str) -> None:
    with pytest.raises(NotFound):
        await sessions.get(unknown, SYSTEM)
    with pytest.raises(NotFound):
        await sessions.of_kernel(unknown, SYSTEM)
    with pytest.raises(NotFound):
        await sessions.move(unknown, Status.ERROR, reason="", by="x", now=1.0)
    with pytest.raises(NotFound):
        await sessions.claim(unknown, {"k": "a1"}, reason="", by="x", now=1.0)
    with pytest.raises(NotFound):
        await sessions.set_exit(unknown, CRASH)


async def test_lists_are_newest_first_and_live_ones_oldest_first(
    sessions: SessionStore, make_session: MakeSession
) -> None:
    a, b, c = [await make_session(now=float(at)) for at in (10, 20, 30)]
    elsewhere = await make_session(now=40.0, cluster_id="elsewhere")
    assert await sessions.list(SYSTEM) == (elsewhere, c, b, a)
    assert await sessions.list(SYSTEM, Selection(limit=2)) == (elsewhere, c)
    assert await sessions.live("here") == (a, b, c)
    await sessions.terminate(b.id, SYSTEM, reason="", by="x", now=50.0)
    assert await sessions.live("here") == (a, c)
    assert [s.id for s in await sessions.list(SYSTEM, Selection(statuses=FINAL))] == [b.id]
    assert await sessions.clusters_in_use() == {"here", "elsewhere"}
    await sessions.terminate(elsewhere.id, SYSTEM, reason="", by="x", now=50.0)
    assert await sessions.clusters_in_use() == {"here"}


async def test_history_tells_every_step_in_order(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession, owner: User
) -> None:
    session = await make_session()
    kernel_id = await run(sessions, session.id)
    await sessions.terminate(session.id, SYSTEM, reason="asked", by="ann", now=13.0)
    await sessions.move(kernel_id, Status.TERMINATED, reason="gone", by="a1", now=14.0)
    steps = await sessions.history(session.id, Viewer(owner.id))
    assert [(s.before, s.after, s.by, s.at) for s in steps] == [
        (None, Status.PENDING, owner.id, 10.0),
        (Status.PENDING, Status.SCHEDULED, "scheduler", 11.0),
        (Status.SCHEDULED, Status.RUNNING, "a1", 12.0),
        (Status.RUNNING, Status.TERMINATING, "ann", 13.0),
        (Status.TERMINATING, Status.TERMINATED, "a1", 14.0),
    ]
    ended = await sessions.get(session.id, SYSTEM)
    assert (ended.status, ended.ended_at, ended.status_reason) == (Status.TERMINATED, 14.0, "gone")


async def test_no_step_is_before_the_last_whatever_a_managers_clock_says(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    session = await make_session(now=10.0)
    kernel_id = await run(sessions, session.id)
    await sessions.move(kernel_id, Status.TERMINATING, reason="", by="another", now=3.0)
    await sessions.move(kernel_id, Status.TERMINATED, reason="", by="another", now=4.0)
    times = [step.at for step in await sessions.history(session.id, SYSTEM)]
    assert times == [10.0, 11.0, 12.0, 12.0, 12.0]
    assert (await sessions.get(session.id, SYSTEM)).ended_at == 12.0


async def test_who_took_a_kernel_to_be_something_else_moves_nothing(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F31: a report that comes late."""
    kernel_id = await run(sessions, (await make_session()).id)
    move = partial(sessions.move, kernel_id, reason="", by="a1", now=13.0, generation=1)
    with pytest.raises(LostRace, match="is not CREATING any more"):
        await move(Status.RESTARTING, before=Status.CREATING)
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.status is Status.RUNNING
    await move(Status.RESTARTING, before=Status.RUNNING)
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.status is Status.RESTARTING


async def test_a_restart_raises_the_generation_and_keeps_the_slots(
    database: Database, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    kernel_id = await run(sessions, (await make_session()).id)
    before = await held(database, kernel_id)
    assert await sessions.restart(kernel_id, SYSTEM, generation=1, by="ann", now=13.0) == 2
    assert await sessions.restart(kernel_id, SYSTEM, generation=2, by="ann", now=14.0) == 3
    restarting = await sessions.of_kernel(kernel_id, SYSTEM)
    assert (restarting.status, restarting.main.generation) == (Status.RESTARTING, 3)
    await sessions.move(kernel_id, Status.RUNNING, reason="", by="a1", now=15.0)
    assert await held(database, kernel_id) == before
    moved = [s.after for s in await sessions.history(restarting.id, SYSTEM)][-2:]
    assert moved == [Status.RESTARTING, Status.RUNNING]


async def test_of_two_who_restart_the_same_program_one_is_late(
    url: str, sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    kernel_id = await run(sessions, (await make_session()).id)
    elsewhere = await Database.open(url)
    outcomes = await asyncio.gather(
        *(
            store.restart(kernel_id, SYSTEM, generation=1, by="ann", now=13.0)
            for store in (sessions, SessionStore(elsewhere))
        ),
        return_exceptions=True,
    )
    assert sorted(map(str, outcomes)) == [
        "2",
        f"Kernel {kernel_id} has been restarted by somebody else.",
    ]
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.generation == 2
    with pytest.raises(LostRace):
        await sessions.restart(kernel_id, SYSTEM, generation=1, by="ann", now=14.0)
    await elsewhere.close()


async def test_a_live_session_is_found_by_what_jupyter_calls_its_kernel(
    database: Database, sessions: SessionStore, make_session: MakeSession
) -> None:
    first = await make_session(jupyter_kernel_id="k", now=10.0)
    await sessions.terminate(first.id, SYSTEM, reason="", by="t", now=11.0)
    again = await make_session(jupyter_kernel_id="k", now=12.0)
    await make_session(jupyter_kernel_id="other")
    found = await sessions.live("here", jupyter_kernel_id="k")
    assert [session.id for session in found] == [again.id]
    stranger = Viewer(await add_user(database, "stranger"))
    assert await sessions.live("here", viewer=stranger, jupyter_kernel_id="k") == ()
    assert await sessions.live("elsewhere", jupyter_kernel_id="k") == ()


async def test_a_restart_of_what_does_not_run_is_a_conflict_in_words(
    sessions: SessionStore, make_session: MakeSession
) -> None:
    session = await make_session()
    with pytest.raises(Conflict, match="PENDING and cannot be restarted"):
        await sessions.restart(session.main.id, SYSTEM, generation=1, by="ann", now=11.0)
    assert (await sessions.get(session.id, SYSTEM)) == session


async def test_signals_are_numbered_until_the_kernel_has_ended(
    sessions: SessionStore, make_session: MakeSession
) -> None:
    session = await make_session()
    assert await sessions.request_signal(session.main.id, 2, SYSTEM) == 1
    assert await sessions.request_signal(session.main.id, 15, SYSTEM) == 2
    kernel = (await sessions.get(session.id, SYSTEM)).main
    assert (kernel.signal_seq, kernel.signal_num) == (2, 15)
    await sessions.terminate(session.id, SYSTEM, reason="enough", by="ann", now=11.0)
    with pytest.raises(Conflict, match="enough"):
        await sessions.request_signal(session.main.id, 2, SYSTEM)


async def test_terminating_cancels_what_waits_and_leaves_the_ended_alone(
    sessions: SessionStore, make_session: MakeSession
) -> None:
    session = await make_session()
    for at in (11.0, 12.0):
        await sessions.terminate(session.id, SYSTEM, reason="asked", by="ann", now=at)
    ended = await sessions.get(session.id, SYSTEM)
    assert (ended.status, ended.ended_at) == (Status.CANCELLED, 11.0)
    assert len(await sessions.history(session.id, SYSTEM)) == 2


async def test_terminating_twice_is_one_step(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    """F12, F31: an end is asked for once, and its first reason stays."""
    session = await make_session()
    await run(sessions, session.id)
    for at in (13.0, 14.0):
        await sessions.terminate(session.id, SYSTEM, reason="asked", by="ann", now=at)
    ending = await sessions.get(session.id, SYSTEM)
    assert (ending.status, ending.ended_at) == (Status.TERMINATING, None)
    assert len(await sessions.history(session.id, SYSTEM)) == 4


async def test_an_exit_is_kept_until_the_kernel_runs_again(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    kernel_id = await run(sessions, (await make_session()).id)
    crashed = Status.RESTARTING
    await sessions.move(kernel_id, crashed, reason="boom", by="a1", now=13.0, exit=CRASH)
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.exit == CRASH
    await sessions.move(kernel_id, Status.RUNNING, reason="", by="a1", now=14.0)
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.exit is None
    await sessions.set_exit(kernel_id, CRASH)
    await sessions.move(kernel_id, Status.TERMINATING, reason="", by="a1", now=15.0)
    assert (await sessions.of_kernel(kernel_id, SYSTEM)).main.exit == CRASH


async def test_a_late_or_second_move_changes_nothing(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    session = await make_session()
    kernel_id = await run(sessions, session.id)
    before = await sessions.get(session.id, SYSTEM), await sessions.history(session.id, SYSTEM)
    for late in (Status.PULLING, Status.RUNNING, Status.TERMINATED, Status.CANCELLED):
        with pytest.raises(LostRace, match=f"RUNNING and cannot become {late}"):
            await sessions.move(kernel_id, late, reason="late", by="a1", now=20.0, exit=CRASH)
    after = await sessions.get(session.id, SYSTEM), await sessions.history(session.id, SYSTEM)
    assert after == before


async def test_only_a_claim_schedules(sessions: SessionStore, make_session: MakeSession) -> None:
    session = await make_session()
    with pytest.raises(ValueError, match="claim"):
        await sessions.move(session.main.id, Status.SCHEDULED, reason="", by="x", now=11.0)


async def test_live_ones_can_be_narrowed_down(
    sessions: SessionStore, agents: AgentStore, make_session: MakeSession
) -> None:
    await agents.record(report("a1", cpu=8, mem=1 << 35), now=1.0)
    placed = await make_session(now=10.0, jupyter_kernel_id="k")
    await run(sessions, placed.id)
    spread = await make_session(
        now=20.0, cluster_mode=ClusterMode.MULTI_NODE, cluster_size=2, jupyter_kernel_id="s"
    )
    unshown = await make_session(now=30.0)

    async def ids(**narrowed: Any) -> list[str]:
        return [session.id for session in await sessions.live("here", **narrowed)]

    assert await ids() == [placed.id, spread.id, unshown.id]
    assert await ids(spread=True) == [spread.id]
    assert await ids(unshown=True) == [unshown.id]
    assert await ids(not_on={"a1", "a2"}) == []
    assert await ids(not_on={"a2"}) == await ids(not_on=set()) == [placed.id]
