"""Sessions that depend on others, as a server has them: they wait, start, or are cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.scheduler.snapshot import Placed, Waiting, Why
from tests.helpers import eventually
from tests.unit.one_machine import OneMachine


@pytest.fixture
async def machine(tmp_path: Path, url: str) -> AsyncIterator[OneMachine]:
    machine = OneMachine(tmp_path, url)
    await machine.start()
    yield machine
    await machine.kill()


def request(*parents: ComputeSession | str, name: str = "", **asked: Any) -> Request:
    wanted = [one if isinstance(one, str) else one.id for one in parents]
    layer = Options.parse({"resources": {"cpu": 1, "mem": "1g"}, "depends_on": wanted, **asked})
    return Request("backendai-python", "python", ("python",), Options(), layers=(layer,), name=name)


async def ask(
    machine: OneMachine, *parents: ComputeSession | str, name: str = ""
) -> ComputeSession:
    asked = request(*parents, name=name)
    return await machine.manager.sessions.enqueue(asked, machine.manager.viewer)


async def status_of(machine: OneMachine, session: ComputeSession) -> Status:
    return (await machine.manager.sessions.get(session.id, SYSTEM)).status


async def said(machine: OneMachine, session: ComputeSession, text: str) -> str:
    """Return what is said of a session, once that has ``text`` in it."""

    async def found() -> str:
        reason = (await machine.manager.sessions.get(session.id, SYSTEM)).status_reason
        return reason if text in reason else ""

    return await eventually(found)


async def test_a_child_waits_by_name_of_its_parent_and_starts_when_that_ended_well(
    machine: OneMachine,
) -> None:
    parent = await ask(machine, name="prepare")
    child = await ask(machine, "prepare")
    await machine.until_running(parent)
    reason = await said(machine, child, "Waiting for the end")
    assert reason == (
        f"Waiting for the end of session 'prepare' ({parent.id}), on which it depends."
    )
    standing = (await machine.manager.sessions.outlook())[child.id]
    assert (standing.why, standing.position) == (Why.PARENT, None)
    await machine.end(parent)
    await machine.until_running(child)
    parents, _ = await machine.manager.dependents.of(child.id, SYSTEM)
    assert [(one.id, one.is_met) for one in parents] == [(parent.id, True)]


async def test_what_depends_on_what_was_cancelled_is_cancelled_and_so_on(
    machine: OneMachine,
) -> None:
    """F7: nobody waits for ever for a session that failed, or for one that waited for it."""
    parent = await ask(machine, name="prepare")
    child = await ask(machine, parent, name="train")
    grandchild = await ask(machine, child, parent)
    other = await ask(machine)
    await machine.until_running(parent)
    await machine.end(child)
    over = await machine.until_over(grandchild)
    assert over.status is Status.CANCELLED
    assert over.status_reason == (
        f"It was cancelled because session 'train' ({child.id}), which it depends on, has not "
        "ended well: it is CANCELLED, It is enough."
    )
    assert await status_of(machine, parent) is Status.RUNNING
    await machine.until_running(other)


async def test_a_program_that_dies_costs_those_that_depend_on_it_one_after_the_other(
    tmp_path: Path, url: str
) -> None:
    """F7: also a chain, and where the parent had been running."""
    machine = OneMachine(tmp_path, url, restart_grace_s=0.0)
    await machine.start()
    chain = [await ask(machine, name="first")]
    for number in range(4):
        chain.append(await ask(machine, chain[-1], name=f"next{number}"))
    await machine.until_running(chain[0])
    machine.runtime.die(chain[0].id, 1)
    for one in chain[1:]:
        assert (await machine.until_over(one)).status is Status.CANCELLED
    assert await eventually(machine.has_nothing)
    await machine.kill()


async def test_without_any_hint_the_next_full_pass_settles_it(machine: OneMachine) -> None:
    """F7: what another process has written is found, whoever forgot to say so."""
    parent = await ask(machine)
    child = await ask(machine, parent)
    await machine.until_running(parent)
    other = await machine.another_manager()
    await other.sessions.terminate(parent.id, other.viewer, reason="enough")
    await machine.until_running(child)


async def test_who_may_be_depended_on_is_checked_when_it_is_asked_for(machine: OneMachine) -> None:
    gone, twin = await ask(machine, name="gone"), await ask(machine, name="twin")
    await machine.until_running(twin)
    await ask(machine, name="twin")
    await machine.until_running(gone)
    cancelled = await ask(machine, gone, name="cancelled")
    await machine.end(cancelled)
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    for wanted, problem in {
        "nobody": "there is no session 'nobody'",
        "twin": "several sessions are called 'twin'",
        cancelled.id: "has not ended well: it is CANCELLED, It is enough.",
    }.items():
        for asked in (sessions.enqueue, sessions.try_out):
            with pytest.raises(InvalidInput) as caught:
                await asked(request(wanted), viewer)
            assert caught.value.field == "backendai.depends_on"
            assert problem in caught.value.problem


async def test_what_has_ended_well_already_keeps_nobody_waiting(machine: OneMachine) -> None:
    parent = await ask(machine, name="prepare")
    await machine.until_running(parent)
    await machine.end(parent)
    await machine.until_over(parent)
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    assert isinstance(await sessions.try_out(request("prepare"), viewer), Placed)
    await machine.until_running(await ask(machine, "prepare"))


async def test_a_dry_run_waits_for_the_same_sessions(machine: OneMachine) -> None:
    parent = await ask(machine, name="prepare")
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    tried = await sessions.try_out(request(parent), viewer)
    assert isinstance(tried, Waiting)
    assert (tried.why, tried.position) == (Why.PARENT, None)
    assert "'prepare'" in tried.reason
