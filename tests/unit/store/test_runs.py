"""How long sessions have run, and what those that are there hold."""

from __future__ import annotations

from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Occupant, Run
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.runs import RunStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import ONE_CPU


async def advance(
    sessions: SessionStore, session: ComputeSession, moves: dict[Status, float]
) -> None:
    """Place a session, and move it on, at these times."""
    kernel_id = session.main.id
    await sessions.claim(session.id, {kernel_id: "a1"}, reason="", by="s", now=11.0)
    for status, at in moves.items():
        await sessions.move(kernel_id, status, reason="", by="a", now=at)


async def test_a_run_is_from_its_first_answer_to_its_end(
    database: Database, agents: AgentStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    restarted = await make_session(name="nb", resource_group="gpu")
    await advance(sessions, restarted, {Status.RUNNING: 20.0, Status.RESTARTING: 30.0})
    for status, at in {Status.RUNNING: 31.0, Status.TERMINATING: 70.0}.items():
        await sessions.move(restarted.main.id, status, reason="", by="a", now=at)
    await sessions.move(restarted.main.id, Status.TERMINATED, reason="", by="a", now=80.0)
    never = await make_session()
    await advance(sessions, never, {Status.TERMINATING: 20.0, Status.TERMINATED: 21.0})
    await sessions.terminate((await make_session()).id, SYSTEM, reason="", by="x", now=12.0)
    assert await RunStore(database).ended("here") == (Run(restarted.owner, "nb", "gpu", 60.0),)
    assert await RunStore(database).ended("elsewhere") == ()


async def test_occupants_are_those_that_hold_slots(
    database: Database, agents: AgentStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    running, ending, placed = [await make_session(id=name) for name in ("1", "2", "3")]
    await make_session(id="4")
    await advance(sessions, running, {Status.RUNNING: 20.0, Status.RESTARTING: 30.0})
    await advance(sessions, ending, {Status.RUNNING: 21.0, Status.TERMINATING: 22.0})
    await advance(sessions, placed, {})
    holds = (("a1", ONE_CPU.to_amounts()),)
    who = (running.owner, running.name, "default")
    assert await RunStore(database).occupants("here") == (
        Occupant("1", *who, 20.0, False, holds),
        Occupant("2", *who, 21.0, True, holds),
        Occupant("3", *who, 0.0, False, holds),
    )
