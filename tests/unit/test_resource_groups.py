"""Resource groups as a server has them: from the request to the row, or to a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import InvalidInput, NeverFits
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.scheduler.snapshot import Placed, Waiting, Why
from tests.helpers import eventually
from tests.unit.one_machine import CPUS, OneMachine


@pytest.fixture
async def machine(tmp_path: Path, url: str) -> AsyncIterator[OneMachine]:
    machine = OneMachine(tmp_path, url)
    machine.settings.resource_groups = {"batch": {"order": "lifo"}}
    await machine.start()
    yield machine
    await machine.kill()


def request(cpu: int = 1, **asked: Any) -> Request:
    layer = Options.parse({"resources": {"cpu": cpu, "mem": "1g"}, **asked})
    return Request("backendai-python", "python", ("python",), Options(), layers=(layer,))


async def standing(machine: OneMachine, session_id: str) -> Waiting:
    """Return where a session stands, once that is known."""

    async def found() -> Waiting | None:
        return (await machine.manager.sessions.outlook()).get(session_id)

    said = await eventually(found)
    assert said is not None
    return said


async def test_an_unknown_group_is_refused_with_those_that_there_are(machine: OneMachine) -> None:
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    for ask in (sessions.enqueue, sessions.try_out):
        with pytest.raises(InvalidInput) as caught:
            await ask(request(resource_group="gpu"), viewer)
        assert caught.value.field == "backendai.resource_group"
        assert caught.value.problem == "there is no group 'gpu'; known are batch, default"


async def test_what_was_asked_for_is_in_the_row(machine: OneMachine) -> None:
    asked = request(resource_group="batch", priority=70, not_before="2100-01-01T00:00:00+00:00")
    made = await machine.manager.sessions.enqueue(asked, machine.manager.viewer)
    assert (made.resource_group, made.priority, made.not_before) == ("batch", 70, 4102444800.0)
    assert (await standing(machine, made.id)).why is Why.TIME


async def test_a_dry_run_checks_as_a_start_does_and_leaves_nothing(machine: OneMachine) -> None:
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    placed = await sessions.try_out(request(CPUS), viewer)
    assert isinstance(placed, Placed)
    assert placed.agents == {"main1": "a"}
    with pytest.raises(NeverFits):
        await sessions.try_out(request(CPUS + 1), viewer)
    assert await sessions.list(viewer) == ()
    running = await machine.started()
    lacking = await sessions.try_out(request(CPUS), viewer)
    assert isinstance(lacking, Waiting)
    assert (lacking.why, lacking.position, lacking.shortfall.to_json()) == (
        Why.ROOM,
        1,
        {"cpu": "1"},
    )
    assert [s.id for s in await sessions.list(viewer)] == [running.id]


async def test_a_small_session_waits_behind_a_large_one_and_both_start(
    machine: OneMachine,
) -> None:
    """F37: the large one is not overtaken as long as it waits for room."""
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    running = await machine.started()
    large = await sessions.enqueue(request(CPUS), viewer)
    small = await sessions.enqueue(request(1), viewer)
    assert [(await standing(machine, s.id)).position for s in (large, small)] == [1, 2]
    await machine.end(running)
    await machine.until_running(large)
    assert (await sessions.get(small.id, viewer)).status is Status.PENDING
    await machine.end(large)
    await machine.until_running(small)
