"""Batch sessions from the request to their end: attempts, ends, and whoever dies meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backendai_jupyter.domain.batch import End
from backendai_jupyter.domain.batch_ends import end_of
from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ExitReason
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.reconciler import assignment_of
from backendai_jupyter.manager.shared import shared
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.web.queries import read_session
from tests.fakes import LiveStoreOfAgentsWithNetworks
from tests.helpers import eventually
from tests.unit.batch_machine import (
    RuntimeThatConfinesNothing,
    RuntimeWithRunners,
    ask_for_batch,
)
from tests.unit.one_machine import OneMachine, Start

ENDS = {
    "done": (End.DONE, 0, "Done: 3 cells in 1 s.", ExitReason.EXITED),
    "failed": (End.FAILED, 1, "It failed in cell 2 of 3: ValueError: bad", ExitReason.EXITED),
    "timed-out": (End.TIMED_OUT, 124, "It took longer than its 5 s.", ExitReason.TIMED_OUT),
}


@pytest.fixture
def runtime() -> RuntimeWithRunners:
    return RuntimeWithRunners()


async def began(machine: OneMachine, runtime: RuntimeWithRunners, **batch: Any) -> ComputeSession:
    """Return a session whose program has been told to begin."""
    session = await ask_for_batch(machine, **batch)
    await eventually(lambda: runtime.may_begin(session.id))
    return session


async def history(machine: OneMachine, session: ComputeSession) -> list[tuple[Status, str]]:
    steps = await SessionStore(machine.database).history(session.id, SYSTEM)
    return [(step.after, step.reason) for step in steps]


@pytest.mark.parametrize(("end", "code", "message", "reason"), ENDS.values(), ids=ENDS)
async def test_a_session_ends_with_its_program_and_says_how(
    start: Start,
    runtime: RuntimeWithRunners,
    end: End,
    code: int,
    message: str,
    reason: ExitReason,
) -> None:
    """F46: done, failed and too long are different ends with different sentences."""
    machine = await start(runtime=runtime)
    session = await began(machine, runtime)
    runtime.ends(session.id, end, code=code, message=message)
    over = await machine.until_over(session)
    assert (over.status, end_of(over), over.status_reason) == (Status.TERMINATED, end, message)
    ending = over.main.exit
    assert ending is not None
    assert (ending.reason, ending.code) == (reason, code)
    assert ending.log_tail == f"log of {session.id}"
    assert await machine.has_nothing()


async def test_a_program_begins_only_when_its_session_runs(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    """F45: the agent may tell a batch to begin only when all of its session runs."""
    runtime.is_slow = True
    machine = await start(runtime=runtime)
    session = await ask_for_batch(machine)
    creating = await machine.until(session, Status.CREATING)
    for status in set(Status) - {Status.RUNNING}:
        order = assignment_of(replace(creating, status=status), creating.main).batch
        assert order is not None
        assert not order.go
    assert not runtime.may_begin(session.id)
    runtime.says(session.id, phase="ready")
    running = await machine.until(session, Status.RUNNING)
    order = assignment_of(running, running.main).batch
    assert order is not None
    assert order.go
    await eventually(lambda: runtime.may_begin(session.id))


async def test_no_time_limit_is_none(start: Start, runtime: RuntimeWithRunners) -> None:
    """F44: what was not asked for is no limit, neither in the row nor in the order."""
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, timeout_s=None)
    assert session.batch is not None
    assert session.batch.timeout_s is None
    assert runtime.order(session.id)["timeout_s"] is None


async def test_no_server_shows_a_batch_and_so_none_culls_it(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    """F47: servers cull the kernels that they show, and a batch is none of these."""
    machine = await start(runtime=runtime)
    await began(machine, runtime)
    manager = machine.manager
    there = await shared(manager, manager.viewer)
    assert (there.reachable, there.starting) == ({}, {})


async def test_it_is_tried_again_as_often_as_was_asked_for(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, retries=1)
    runtime.ends(session.id, "failed", code=1, message="It failed in cell 1 of 1: no luck")
    await eventually(lambda: runtime.starts == 2 and runtime.may_begin(session.id))
    assert runtime.order(session.id)["attempt"] == 2
    shown = await read_session(machine.manager, session.id, SYSTEM)
    assert shown.batch is not None
    assert (shown.batch.attempt, shown.batch.attempts, shown.batch.end) == (2, 2, None)
    runtime.ends(session.id, "failed", code=1, message="It failed again.")
    over = await machine.until_over(session)
    assert (end_of(over), over.status_reason) == (End.FAILED, "It failed again.")
    again = (
        "Attempt 1 of 2 ended: It failed in cell 1 of 1: no luck The next one waits for its turn."
    )
    assert (Status.PENDING, again) in await history(machine, session)
    assert await machine.has_nothing()


async def test_what_is_too_slow_is_tried_again_only_if_that_was_asked_for(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, retries=1)
    runtime.ends(session.id, "timed-out", code=124)
    assert end_of(await machine.until_over(session)) is End.TIMED_OUT
    other = await began(machine, runtime, retries=1, retry_on=(End.TIMED_OUT,))
    runtime.ends(other.id, "timed-out", code=124)
    await eventually(
        lambda: runtime.may_begin(other.id) and runtime.order(other.id)["attempt"] == 2
    )
    runtime.ends(other.id, "done", code=0)
    assert end_of(await machine.until_over(other)) is End.DONE


async def test_one_whose_end_was_asked_for_is_cancelled_and_not_tried_again(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, retries=5)
    await machine.end(session)
    over = await machine.until_over(session)
    assert (end_of(over), over.status_reason) == (End.CANCELLED, "It is enough.")
    assert runtime.starts == 1
    assert await machine.has_nothing()


async def test_an_end_that_is_asked_for_while_an_attempt_is_cleared_up_is_the_last(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, retries=5)
    runtime.may_stop.clear()
    runtime.ends(session.id, "failed", code=1)
    await machine.until(session, Status.TERMINATING)
    await machine.end(session)
    runtime.may_stop.set()
    assert end_of(await machine.until_over(session)) is End.FAILED
    assert runtime.starts == 1


async def test_a_start_that_fails_is_tried_again_and_at_last_an_error(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    runtime.is_slow = True
    machine = await start(runtime=runtime)
    session = await ask_for_batch(machine, retries=1)
    for attempt in (1, 2):
        await eventually(lambda number=attempt: runtime.starts == number)  # type: ignore[misc]
        await eventually(lambda: session.id in runtime.containers)
        runtime.says(session.id, phase="refused", message="There is no nbclient.")
        runtime.die(session.id, 1)
    over = await machine.until_over(session)
    assert (over.status, end_of(over)) == (Status.ERROR, End.START_FAILED)
    assert "step 'ready' failed. There is no nbclient." in over.status_reason
    assert await machine.has_nothing()


async def test_it_goes_on_without_server_and_agent_and_its_end_is_seen_later(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime)
    await machine.kill()
    await machine.start()
    assert (await machine.until(session, Status.RUNNING)).main.generation == 1
    await machine.kill()
    runtime.ends(session.id, "done", code=0)
    await machine.start()
    assert end_of(await machine.until_over(session)) is End.DONE
    assert (runtime.starts, machine.relay.channels) == (1, {})
    assert await machine.has_nothing()


async def test_one_that_was_getting_ready_does_so_once(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    runtime.is_slow = True
    machine = await start(runtime=runtime)
    session = await ask_for_batch(machine)
    await eventually(lambda: session.id in runtime.containers)
    await machine.kill()
    runtime.says(session.id, phase="ready")
    await machine.start()
    await eventually(lambda: runtime.may_begin(session.id))
    assert runtime.starts == 1


async def test_managers_that_all_see_an_end_count_one_attempt(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    for _ in range(2):
        await machine.another_manager()
    session = await began(machine, runtime, retries=3)
    for attempt in (2, 3):
        runtime.ends(session.id, "failed", code=1)
        await eventually(lambda: runtime.may_begin(session.id) and not runtime.has_ended)
        assert runtime.order(session.id)["attempt"] == attempt
    now = await SessionStore(machine.database).get(session.id, SYSTEM)
    assert (now.main.generation, now.retries_left) == (3, 1)


async def test_one_that_waits_still_waits_for_the_next_server(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    first = [await began(machine, runtime) for _ in range(4)]
    waiting = await ask_for_batch(machine)
    await machine.kill()
    await machine.start()
    assert (await machine.until(waiting, Status.PENDING)).status is Status.PENDING
    runtime.ends(first[0].id, "done", code=0)
    await eventually(lambda: runtime.may_begin(waiting.id))


async def test_it_says_in_which_cell_it_is(start: Start, runtime: RuntimeWithRunners) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime)
    how_far = {"cell": 2, "cells": 3, "since": 20.0, "begun": 10.0}
    runtime.says(session.id, phase="running", **how_far)

    async def is_told() -> bool:
        shown = (await read_session(machine.manager, session.id, SYSTEM)).batch
        return shown is not None and shown.progress is not None and shown.progress.cell == 2

    await eventually(is_told)
    runtime.says(session.id, phase="running", **how_far)
    runtime.die(session.id, 137, oom_killed=True)
    over = await machine.until_over(session)
    assert "ran out of memory" in over.status_reason
    assert over.status_reason.endswith("It was at cell 2 of 3.")
    shown = (await read_session(machine.manager, session.id, SYSTEM)).batch
    assert shown is not None
    assert shown.progress is not None
    assert (shown.end, shown.progress.cells) == (End.FAILED, 3)


async def test_a_notebook_is_found_where_the_session_sees_it(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, notebook="data/deep/nb.ipynb", parameters={"a": 1})
    order = runtime.order(session.id)
    assert (order["notebook"], order["output"]) == (
        "/home/work/data/deep/nb.ipynb",
        "/home/work/data/deep/nb.out.ipynb",
    )
    members = "/run/backendai/kernel_members.py"  # instead of what takes care of its output
    assert order["kernel_argv"] == ["python", "-f", "{connection_file}", members]
    assert order["parameters"] == {"a": 1}
    assert runtime.specs[session.id].workdir == "/home/work/data/deep"
    assert runtime.specs[session.id].argv == ("python3", "/run/backendai/batch_runner.py")


async def test_of_several_kernels_the_first_runs_the_batch_and_the_others_end_with_it(
    start: Start, runtime: RuntimeWithRunners
) -> None:
    machine = await start(runtime=runtime, live=LiveStoreOfAgentsWithNetworks)
    session = await ask_for_batch(machine, layers=(Options(cluster_size=2),))
    main, sub = session.kernels
    await eventually(lambda: runtime.may_begin(main.id))
    row = await SessionStore(machine.database).get(session.id, SYSTEM)
    assert row.status is Status.RUNNING
    assert runtime.specs[main.id].argv[0] == "python3"
    assert runtime.specs[sub.id].argv[0] == "python"
    assert list(machine.relay.channels) == [sub.id]
    runtime.ends(main.id, "done", code=0, message="Done.")
    over = await machine.until_over(session)
    assert (end_of(over), {kernel.status for kernel in over.kernels}) == (
        End.DONE,
        {Status.TERMINATED},
    )
    assert await machine.has_nothing()


async def test_where_nothing_is_confined_it_is_told_the_places_of_the_host(start: Start) -> None:
    runtime = RuntimeThatConfinesNothing()
    machine = await start(runtime=runtime)
    session = await began(machine, runtime, notebook="data/deep/nb.ipynb", log="data/log")
    order = runtime.order(session.id)
    (mount,) = session.main.mounts
    assert order["notebook"] == f"{mount.source}/deep/nb.ipynb"
    assert order["log"] == f"{mount.source}/log"


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        ({"notebook": "nowhere/nb.ipynb"}, "batch.notebook"),
        ({"notebook": "nb.ipynb"}, "batch.notebook"),
        ({"notebook": "data/nb.ipynb", "output": "data/nb.ipynb"}, "batch.output"),
        ({"notebook": "data/nb.ipynb", "log": "nowhere/log"}, "batch.log"),
        ({"notebook": "data/nb.ipynb", "parameters": {"no name": 1}}, "batch.parameters"),
        ({"parameters": {"a": 1}}, "batch.parameters"),
        ({"output": "data/out.ipynb"}, "batch.output"),
        ({"retries": -1}, "batch.retries"),
        ({"retry_on": (End.CANCELLED,)}, "batch.retry_on"),
        ({"notebook": "data/nb.ipynb", "command": ("true",)}, "batch"),
    ],
)
async def test_what_cannot_run_is_refused_at_once(
    start: Start, runtime: RuntimeWithRunners, batch: dict[str, Any], field: str
) -> None:
    machine = await start(runtime=runtime)
    with pytest.raises(InvalidInput) as refused:
        await ask_for_batch(machine, **batch)
    assert refused.value.field == field
    assert await machine.manager.sessions.list(SYSTEM) == ()
