"""Several managers over the same stores: what one starts, restarts or ends is so for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import Cancelled, LostRace
from backendai_jupyter.manager.shared import shared
from tests.fakes import RuntimeInMemory
from tests.helpers import eventually
from tests.misbehaviour import (
    LiveStoreThatLosesEveryHint,
    LiveStoreWithASlowReader,
    RuntimeThatIsHeldWhileItStarts,
)
from tests.unit.one_machine import OneMachine

FOREVER_S = 600.0  # longer than any test


@pytest.fixture
def runtime() -> RuntimeInMemory:
    return RuntimeInMemory()


@pytest.fixture
async def machine(tmp_path: Path, url: str, runtime: RuntimeInMemory) -> AsyncIterator[OneMachine]:
    made = OneMachine(tmp_path, url, runtime=runtime, live=LiveStoreThatLosesEveryHint)
    await made.start()
    yield made
    await made.kill()


async def test_what_one_has_started_another_reaches_without_any_hint(machine: OneMachine) -> None:
    other = await machine.another_manager(full_pass_s=FOREVER_S)
    session = await machine.started(kernel_id="k")
    found = await shared(other, other.viewer)
    assert found.reachable["k"].session.id == session.id
    assert found.starting == {}
    assert (await shared(other, other.viewer, kernel_id="k")).reachable == found.reachable
    assert (await shared(other, other.viewer, kernel_id="unknown")).reachable == {}


async def test_what_one_has_ended_is_gone_without_any_hint(machine: OneMachine) -> None:
    other = await machine.another_manager(full_pass_s=FOREVER_S)
    session = await machine.started(kernel_id="k")
    assert (await shared(other, other.viewer)).reachable
    await machine.end(session)
    assert (await shared(other, other.viewer)).reachable == {}


async def test_a_batch_run_keeps_its_kernels_to_itself(machine: OneMachine) -> None:
    session = await machine.started()
    assert session.jupyter_kernel_id is None
    found = await shared(machine.manager, machine.manager.viewer)
    assert (found.reachable, found.starting) == ({}, {})


@pytest.mark.parametrize("runtime", [RuntimeThatIsHeldWhileItStarts()])
async def test_a_start_is_on_its_way_until_it_has_answered(
    machine: OneMachine, runtime: RuntimeThatIsHeldWhileItStarts
) -> None:
    session = await machine.ask_for(kernel_id="k")
    await machine.until(session, Status.CREATING)
    found = await shared(machine.manager, machine.manager.viewer)
    assert (list(found.starting), found.reachable) == (["k"], {})
    runtime.may_go_on.set()
    await machine.until_running(session)
    found = await shared(machine.manager, machine.manager.viewer)
    assert (found.starting, list(found.reachable)) == ({}, ["k"])


async def test_of_two_that_see_a_death_one_restarts_and_the_other_follows(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    other = await machine.another_manager()
    session = await machine.started(kernel_id="k")
    runtime.die(session.id, 1)
    await machine.until(session, Status.RESTARTING)
    late: list[int] = []

    async def mend(manager_number: int) -> int:
        sessions = (machine.manager, other)[manager_number].sessions
        try:
            generation = await sessions.restart(session.id, SYSTEM, generation=1)
        except LostRace:
            late.append(manager_number)
            generation, connection = await sessions.until_restarted(session.id, after=1)
            assert connection.key
        return generation

    async with asyncio.timeout(10):
        assert list(await asyncio.gather(mend(0), mend(1))) == [2, 2]
    assert len(late) == 1
    assert runtime.starts == 2


async def test_a_manager_that_is_slow_undoes_nothing_by_an_older_report(
    tmp_path: Path, url: str, runtime: RuntimeInMemory
) -> None:
    """F31: a kernel that has died does not run again because somebody read of it before."""
    machine = OneMachine(tmp_path, url, runtime=runtime, live=LiveStoreWithASlowReader)
    await machine.start()
    try:
        live = machine._live
        assert isinstance(live, LiveStoreWithASlowReader)
        await machine.another_manager()
        session = await machine.started(kernel_id="k")
        live.holds = True
        await eventually(lambda: not live.holds)
        runtime.die(session.id, 1)
        await machine.until(session, Status.RESTARTING)
        live.may_go_on.set()
        before = live.listed
        await eventually(lambda: live.listed > before + 10)
        history = await machine.manager.sessions.history(session.id, SYSTEM)
        assert [step.after for step in history][-2:] == [Status.RUNNING, Status.RESTARTING]
        assert [step.after for step in history].count(Status.RUNNING) == 1
    finally:
        await machine.kill()


async def test_whoever_follows_a_restart_learns_that_the_session_was_ended(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await machine.started(kernel_id="k")
    following = asyncio.create_task(machine.manager.sessions.until_restarted(session.id, after=1))
    await machine.end(session)
    with pytest.raises(Cancelled):
        await following


async def test_a_folder_that_another_manager_makes_is_news_here(tmp_path: Path, url: str) -> None:
    machine = OneMachine(tmp_path, url)
    await machine.start()
    try:
        other = await machine.another_manager(full_pass_s=FOREVER_S)
        before = other.vfolders.version
        await machine.manager.vfolders.create("new", machine.manager.viewer)
        await eventually(lambda: other.vfolders.version > before)
    finally:
        await machine.kill()
