"""A start that failed for a reason of its agent is tried on another one, and only so often."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ExitReason
from tests.fakes import RuntimeThatRefusesToStart
from tests.helpers import eventually
from tests.unit.one_machine import OneMachine, Start


async def steps_of(machine: OneMachine, session: ComputeSession) -> list[Status]:
    steps = await machine.manager.sessions.history(session.id, SYSTEM)
    return [step.after for step in steps]


async def test_a_start_that_an_agent_cannot_make_is_made_by_another(start: Start) -> None:
    machine = await start(runtime=RuntimeThatRefusesToStart())
    session = await machine.ask_for()
    await machine.until(session, Status.ERROR, Status.TERMINATED)
    assert Status.RESCHEDULING not in await steps_of(machine, session)  # nobody else is there
    await machine.another_agent("b")
    session = await machine.ask_for()
    await machine.until_running(session)
    running = await machine.manager.sessions.get(session.id, SYSTEM)
    assert (running.main.agent_id, running.failed_on) == ("b", ("a",))
    steps = await machine.manager.sessions.history(session.id, SYSTEM)
    (back,) = [step for step in steps if step.after is Status.RESCHEDULING]
    assert back.reason.startswith("It could not start on agent a, and is tried elsewhere.")
    await machine.end(session)
    await machine.until_over(session)
    assert await eventually(machine.has_nothing)


@pytest.mark.parametrize(("attempts", "agents"), [(3, ("a", "b")), (2, ("a",)), (1, ())])
async def test_it_is_tried_so_often_and_then_its_end_is_told(
    start: Start, attempts: int, agents: tuple[str, ...]
) -> None:
    machine = await start(runtime=RuntimeThatRefusesToStart())
    machine.settings.start_attempts = attempts
    for name in ("b", "c"):
        await machine.another_agent(name, runtime=RuntimeThatRefusesToStart())
    over = await machine.until(await machine.ask_for(), Status.ERROR)
    assert over.failed_on == agents
    assert over.main.exit is not None
    assert over.main.exit.reason is ExitReason.STEP_FAILED
    assert not await machine.held()
