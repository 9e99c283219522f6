"""Failures that systems like this one have had (see docs/explanation/failures.md)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ExitReason
from backendai_jupyter.errors import Cancelled, InvalidInput
from backendai_jupyter.store.sessions import SessionStore
from tests.fakes import (
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
    RuntimeThatStopsOnlyAtTheSecondTry,
    RuntimeWithDemandingImages,
    never_answer,
)
from tests.helpers import eventually
from tests.misbehaviour import (
    ClusterStoreWhoseWatchesAreSilent,
    LiveStoreThatLosesEveryHint,
    ProbeThatWaits,
    RelayWhosePortsAreTaken,
    RuntimeThatHangsWhenOneKernelIsStopped,
    RuntimeThatIsHeldWhileItStarts,
    RuntimeThatNeverHintsAnExit,
    RuntimeWithoutRoom,
)
from tests.unit.one_machine import CPUS, Start

SIX_HOURS_S = 6 * 3600.0


async def test_without_any_hint_a_session_starts_restarts_and_ends(start: Start) -> None:
    """F1, F2: a lost event delays a start until the next full pass and no longer."""
    machine = await start(
        cluster=ClusterStoreWhoseWatchesAreSilent,
        live=LiveStoreThatLosesEveryHint,
        runtime=RuntimeThatNeverHintsAnExit(),
    )
    session = await machine.started()
    sessions, viewer = machine.manager.sessions, machine.manager.viewer
    generation = await sessions.restart(session.id, viewer, generation=1)
    await machine.until_running(session, generation=generation)
    await machine.end(session)
    await machine.until_over(session)
    assert await machine.has_nothing()


@pytest.mark.parametrize("status", [Status.PENDING, Status.CREATING, Status.TERMINATING])
async def test_whatever_a_killed_server_was_doing_is_over_soon_after_the_next_start(
    start: Start, status: Status
) -> None:
    """F2, F5: a start or an end that was cut off stays in no status for ever."""
    runtime = RuntimeThatStopsOnlyAtTheSecondTry()
    machine = await start(runtime=runtime, ask=never_answer)
    if status is Status.PENDING:
        runtime.refusals = 0
        await machine.ask_for(Slots({"cpu": CPUS, "mem": 1 << 30}))
    session = await machine.ask_for()
    if status is Status.TERMINATING:
        await machine.until(session, Status.CREATING)
        await machine.end(session)
    else:
        runtime.refusals = 0
    await machine.until(session, status)
    await machine.kill()
    await machine.start()
    await machine.until_over(session)
    await eventually(machine.has_nothing)


async def test_a_start_that_takes_longer_than_any_heartbeat_is_waited_for(start: Start) -> None:
    """F3: the wait for a slow start hangs on no time-out but those that are set for it."""
    probe, runtime = ProbeThatWaits(), RuntimeThatIsHeldWhileItStarts()
    machine = await start(ask=probe, runtime=runtime)
    waiting = asyncio.ensure_future(machine.started())
    await eventually(lambda: runtime.listed > 20)
    runtime.may_go_on.set()
    await eventually(lambda: runtime.listed > 40)
    assert not waiting.done()
    probe.may_answer.set()
    session = await waiting
    assert (await machine.until(session, Status.RUNNING)).main.generation == 1
    assert runtime.starts == 1


async def test_kernels_that_have_ended_leave_no_task_behind(start: Start) -> None:
    """F4: what was done for a kernel is done when it ends, also if its start failed."""
    machine = await start()
    before = len(asyncio.all_tasks())
    for _ in range(3):
        sessions = [await machine.ask_for() for _ in range(CPUS)]
        await asyncio.gather(*(machine.until(s, Status.RUNNING) for s in sessions))
        await asyncio.gather(*(machine.end(s) for s in sessions))
        await asyncio.gather(*(machine.until_over(s) for s in sessions))
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_program_that_nobody_starts_again_ends_its_session_with_its_reason(
    start: Start,
) -> None:
    """F8: a session does not go on as RUNNING when all its kernels are dead."""
    machine = await start(restart_grace_s=0.1)
    session = await machine.started()
    machine.runtime.die(session.id, 137, oom_killed=True)
    over = await machine.until_over(session)
    assert over.status is Status.TERMINATED
    assert "out of memory" in over.status_reason
    assert over.main.exit is not None
    assert over.main.exit.reason is ExitReason.OUT_OF_MEMORY
    assert await machine.has_nothing()


async def test_a_program_that_its_owner_starts_again_just_then_is_not_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await start(restart_grace_s=0)
    session = await machine.started()
    move, restart = SessionStore.move, SessionStore.restart

    async def move_after_its_owner(
        store: SessionStore, kernel_id: str, to: Status, **how: Any
    ) -> None:
        if how["by"] == "reconciler":
            await restart(store, kernel_id, SYSTEM, generation=1, by="its owner", now=how["now"])
        await move(store, kernel_id, to, **how)

    monkeypatch.setattr(SessionStore, "move", move_after_its_owner)
    machine.runtime.die(session.id, 1)
    await machine.until_running(session, generation=2)


async def test_a_setting_that_changes_holds_for_what_already_waits(start: Start) -> None:
    machine = await start(restart_grace_s=600)
    session = await machine.started()
    machine.runtime.die(session.id, 1)
    await machine.until(session, Status.RESTARTING)
    machine.settings.restart_grace_s = 0
    await machine.until_over(session)


@pytest.mark.parametrize("ask_for_all", [True, False], ids=["while it waits", "while it starts"])
async def test_whoever_waits_for_a_start_is_told_that_it_was_cancelled(
    start: Start, ask_for_all: bool
) -> None:
    """F9: a cancelled start is reported to the one who waits, and at once."""
    machine = await start(ask=never_answer)
    if ask_for_all:
        await machine.ask_for(Slots({"cpu": CPUS, "mem": 1 << 30}))
    session = await machine.ask_for()
    await machine.until(session, Status.PENDING if ask_for_all else Status.CREATING)
    waiting = asyncio.ensure_future(machine.until_running(session))
    await machine.end(session)
    with pytest.raises(Cancelled):
        await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("runtime", [RuntimeThatRefusesToStart, RuntimeWithoutRoom])
async def test_a_start_that_failed_holds_no_slots_and_the_next_one_gets_them(
    start: Start, runtime: type[RuntimeInMemory]
) -> None:
    """F10, F15: what was taken for a start is given back wherever it fails."""
    machine = await start(runtime=runtime())
    all_of_it = Slots({"cpu": CPUS, "mem": 1 << 30})
    for _ in range(3):
        session = await machine.ask_for(all_of_it)
        over = await machine.until_over(session)
        assert over.status is Status.ERROR
        assert "no space left on device" in over.status_reason.lower()
        await eventually(machine.has_nothing)


async def test_sessions_that_end_all_at_once_give_everything_back(start: Start) -> None:
    """F11: ending many at once, twice, leaks nothing."""
    machine = await start()
    running = [await machine.started() for _ in range(CPUS)]
    waiting = [await machine.ask_for() for _ in range(CPUS)]
    ends = [machine.end(session) for session in (*running, *waiting, *running)]
    await asyncio.gather(machine.manager.end_all(reason="All of them."), *ends)
    for session in (*running, *waiting):
        await machine.until_over(session)
    assert await machine.has_nothing()


async def test_a_session_is_not_over_and_holds_its_slots_while_its_container_is_there(
    start: Start,
) -> None:
    """F20: an end that was forced leaves no container running."""
    runtime = RuntimeThatHangsWhenOneKernelIsStopped()
    machine = await start(runtime=runtime)
    session = await machine.started()
    runtime.hangs_at = session.id
    await machine.end(session)
    await machine.manager.sessions.terminate(session.id, SYSTEM, reason="Again.")
    other = await machine.started()  # many passes go by meanwhile
    assert (await machine.until(session, Status.TERMINATING)).ended_at is None
    assert (await machine.held())["cpu"] == (0, 2000)
    runtime.may_go_on.set()
    await machine.until_over(session)
    assert list(runtime.containers) == [other.id]
    assert (await machine.held())["cpu"] == (0, 1000)


def nothing(path: Path) -> None:
    path.unlink()


def of_another_version(path: Path) -> None:
    path.write_text('{"version": 99, "kernel": {"state": "\\u00e9"}}')


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def not_even_text(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95" + bytes(range(256)))


@pytest.mark.parametrize("damage", [nothing, of_another_version, cut_short, not_even_text])
async def test_a_kernel_goes_on_whatever_became_of_what_its_agent_wrote_down(
    start: Start, damage: Callable[[Path], None]
) -> None:
    """F21, F30: a registry that is missing, damaged or another version's costs no kernel."""
    machine = await start()
    session = await machine.started()
    (checkpoint,) = machine.node.checkpoints.directory.glob("*.json")
    await machine.kill()
    damage(checkpoint)
    machine.ask = never_answer  # it is at work, and would not answer
    await machine.start()
    assert [survivor.session.id for survivor in machine.survived] == [session.id]
    assert machine.runtime.starts == 1
    assert (await machine.until(session, Status.RUNNING)).main.generation == 1
    await machine.end(session)
    await machine.until_over(session)
    await eventually(machine.has_nothing)


async def test_a_container_that_is_being_made_is_not_taken_for_a_stray(start: Start) -> None:
    """F22: passes that go by during a start see its container and leave it alone."""
    runtime = RuntimeThatIsHeldWhileItStarts()
    machine = await start(runtime=runtime)
    session = await machine.ask_for()
    await eventually(lambda: runtime.containers)
    passes = runtime.listed
    await eventually(lambda: runtime.listed > passes + 10)
    assert list(runtime.containers) == [session.id]
    runtime.may_go_on.set()
    await machine.until(session, Status.RUNNING)
    assert runtime.starts == 1


async def test_a_death_that_nobody_hints_at_is_found_by_a_full_pass(start: Start) -> None:
    """F23: events that were missed cost a pass."""
    machine = await start(runtime=RuntimeThatNeverHintsAnExit())
    session = await machine.started()
    machine.runtime.die(session.id, 1)
    await machine.until(session, Status.RESTARTING)


async def test_a_container_that_a_restored_database_does_not_know_is_removed(
    start: Start, tmp_path: Path
) -> None:
    """F24: no container outlives its row."""
    machine = await start()
    kept = await machine.started()
    await machine.kill()
    shutil.copy(tmp_path / "backendai.db", tmp_path / "backup")
    await machine.start()
    await machine.started()
    assert len(machine.runtime.containers) == 2
    await machine.kill()
    shutil.copy(tmp_path / "backup", tmp_path / "backendai.db")
    await machine.start()
    await eventually(lambda: list(machine.runtime.containers) == [kept.id])
    assert (await machine.held())["cpu"] == (0, 1000)


async def test_a_container_that_vanished_while_no_server_ran_is_missed(start: Start) -> None:
    """F25: a row does not say RUNNING of a container that is gone."""
    machine = await start(restart_grace_s=0.1)
    session = await machine.started()
    await machine.kill()
    machine.runtime.containers.clear()
    await machine.start()
    over = await machine.until_over(session)
    assert "removed by somebody else" in over.status_reason
    await eventually(machine.has_nothing)


async def test_a_kernel_whose_ports_are_taken_moves_to_others_and_leaves_none(
    start: Start,
) -> None:
    """F26: neither a retry nor a port that is taken leaks channels or keeps a kernel away."""
    relay = RelayWhosePortsAreTaken()
    machine = await start(relay=relay)
    session = await machine.started()
    before = machine.manager.board.get(session.id)
    relay.lose()
    machine.agent.relay_lost()

    def moved() -> bool:
        notice = machine.manager.board.get(session.id)
        assert notice is not None
        assert before is not None
        return session.id in relay.channels and notice.connection == relay.channels[
            session.id
        ].connection(before.connection.key if before.connection else "")

    await eventually(moved)
    assert list(relay.channels) == [session.id]


async def test_a_kernel_that_hangs_holds_up_no_other(start: Start) -> None:
    """F28, F29: whatever is done for one kernel blocks nothing that is done for another."""
    runtime = RuntimeThatHangsWhenOneKernelIsStopped()
    machine = await start(runtime=runtime)
    hanging = await machine.started()
    runtime.hangs_at = hanging.id
    await machine.end(hanging)
    for _ in range(3):
        other = await machine.started()
        await machine.end(other)
        await machine.until_over(other)
    runtime.may_go_on.set()
    await machine.until_over(hanging)


async def test_what_is_said_of_a_dead_program_later_does_not_replace_its_reason(
    start: Start,
) -> None:
    """F31: the first reason counts, in the row and for whoever waits."""
    machine = await start()
    session = await machine.started()
    machine.runtime.die(session.id, 137, oom_killed=True)
    await machine.until(session, Status.RESTARTING)
    machine.runtime.die(session.id, 1)
    machine.runtime.containers.clear()
    machine.agent.look_for_images()  # a full pass, which sees that it is gone
    await machine.end(session)
    over = await machine.until_over(session)
    assert over.main.exit is not None
    assert over.main.exit.reason is ExitReason.OUT_OF_MEMORY
    notice = machine.manager.board.get(session.id)
    assert notice is not None
    assert notice.exit == over.main.exit


@pytest.mark.parametrize("jump_s", [SIX_HOURS_S, -SIX_HOURS_S], ids=["forward", "back"])
async def test_a_clock_that_is_set_ends_nothing_and_expires_nothing(
    start: Start, jump_s: float
) -> None:
    """F32: a wrong clock makes no agent lost, no kernel dead and no wait too long."""
    machine = await start()
    running, dead = await machine.started(), await machine.started()
    machine.runtime.die(dead.id, 1)
    await machine.until(dead, Status.RESTARTING)
    machine.clock.jump(jump_s)
    other = await machine.started()  # many passes go by meanwhile
    await machine.end(other)
    await machine.until_over(other)
    assert (await machine.until(running, Status.RUNNING)).main.generation == 1
    assert machine.manager.board.reports
    sessions = machine.manager.sessions
    generation = await sessions.restart(dead.id, machine.manager.viewer, generation=1)
    await machine.until_running(dead, generation=generation)


async def test_a_clock_that_is_set_back_does_not_keep_a_dead_kernel(start: Start) -> None:
    """F32: the time that a dead kernel is kept passes also where the clock is set back."""
    machine = await start(restart_grace_s=0.3)
    session = await machine.started()
    machine.runtime.die(session.id, 1)
    await machine.until(session, Status.RESTARTING)
    machine.clock.jump(-SIX_HOURS_S)
    await machine.until_over(session)


async def test_an_image_says_the_least_that_its_kernels_need(start: Start) -> None:
    runtime = RuntimeWithDemandingImages()
    machine = await start(runtime=runtime)
    with pytest.raises(InvalidInput, match=r"backendai\.resources\.mem: .*at least mem 2 GiB"):
        await machine.ask_for()
    assert await machine.manager.live() == ()
    assert [note for note in machine.manager.board.reports["a"].notes if "broken" in note] == [
        "The image memory/broken is not offered: ai.backend.resource.min.cpu: 'many' is not a "
        "number."
    ]
    await machine.started(Slots({"cpu": 1, "mem": 2 << 30}))
