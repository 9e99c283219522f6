"""Batch sessions of several kernels: an attempt is over for all of them, and the next begins so."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.batch import End
from backendai_jupyter.domain.batch_ends import end_of
from backendai_jupyter.domain.cluster import FailurePolicy
from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.store.sessions import SessionStore
from tests.fakes import LiveStoreOfAgentsWithNetworks
from tests.helpers import eventually
from tests.unit.batch_machine import RuntimeWithRunners, ask_for_batch
from tests.unit.one_machine import OneMachine, Start

THREE = (Options(cluster_size=3),)


@pytest.fixture
def runtime() -> RuntimeWithRunners:
    return RuntimeWithRunners()


@pytest.fixture
async def machine(start: Start, runtime: RuntimeWithRunners) -> OneMachine:
    return await start(runtime=runtime, live=LiveStoreOfAgentsWithNetworks)


async def read(machine: OneMachine, session: ComputeSession) -> ComputeSession:
    return await SessionStore(machine.database).get(session.id, SYSTEM)


async def began(
    machine: OneMachine, runtime: RuntimeWithRunners, session: ComputeSession, *, attempt: int
) -> None:
    """Return once the first kernel was told to begin this attempt, with all of them up."""
    main = session.main.id
    await eventually(lambda: runtime.may_begin(main) and runtime.order(main)["attempt"] == attempt)
    now = await read(machine, session)
    assert {(k.status, k.generation) for k in now.kernels} == {(Status.RUNNING, attempt)}
    assert set(runtime.containers) == {kernel.id for kernel in session.kernels}


async def test_all_kernels_begin_the_next_attempt_together(
    machine: OneMachine, runtime: RuntimeWithRunners
) -> None:
    session = await ask_for_batch(machine, layers=THREE, retries=2)
    for attempt in (1, 2):
        await began(machine, runtime, session, attempt=attempt)
        runtime.ends(session.main.id, "failed", code=1, message="No luck.")
    await began(machine, runtime, session, attempt=3)
    runtime.ends(session.main.id, "done", code=0, message="Done.")
    over = await machine.until_over(session)
    assert (end_of(over), over.status, over.retries_left) == (End.DONE, Status.TERMINATED, 0)
    steps = await SessionStore(machine.database).history(session.id, SYSTEM)
    waited = [step.kernel_id for step in steps if step.after is Status.PENDING and step.before]
    assert sorted(waited) == sorted(2 * [kernel.id for kernel in session.kernels])
    assert await machine.has_nothing()


@pytest.mark.parametrize("code", [0, 9])
async def test_with_a_member_that_has_ended_the_attempt_has_failed(
    machine: OneMachine, runtime: RuntimeWithRunners, code: int
) -> None:
    """Also with one that has ended well: nobody knows what the others wanted of it."""
    session = await ask_for_batch(machine, layers=THREE, retries=1)
    for attempt in (1, 2):
        await began(machine, runtime, session, attempt=attempt)
        runtime.die(session.kernels[1].id, code)
    over = await machine.until_over(session)
    assert end_of(over) is End.FAILED
    assert over.main.status_reason.startswith("sub1 has ended, and the session ends with it.")
    assert await machine.has_nothing()


async def test_a_kernel_whose_attempt_is_cleared_up_waits_for_the_slowest(
    machine: OneMachine, runtime: RuntimeWithRunners
) -> None:
    session = await ask_for_batch(machine, layers=THREE, retries=1)
    await began(machine, runtime, session, attempt=1)
    runtime.may_stop.clear()
    runtime.ends(session.main.id, "failed", code=1)

    async def are_told() -> bool:
        now = await read(machine, session)
        return all(kernel.status is Status.TERMINATING for kernel in now.kernels)

    await eventually(are_told)
    assert end_of(await read(machine, session)) is None
    runtime.may_stop.set()
    await began(machine, runtime, session, attempt=2)


@pytest.mark.parametrize("one", ["all", "sub2"])
async def test_an_end_that_is_asked_for_is_the_last(
    machine: OneMachine, runtime: RuntimeWithRunners, one: str
) -> None:
    session = await ask_for_batch(machine, layers=THREE, retries=5)
    await began(machine, runtime, session, attempt=1)
    if one == "all":
        await machine.end(session)
    else:
        viewer = machine.manager.viewer
        kernel_id = session.kernel(one).id
        await machine.manager.sessions.terminate_kernel(kernel_id, viewer, reason="It is enough.")
    over = await machine.until_over(session)
    assert {kernel.status for kernel in over.kernels} == {Status.TERMINATED}
    assert (runtime.starts, over.retries_left) == (3, 0)
    assert await machine.has_nothing()


async def test_why_a_member_has_ended_is_why_the_attempt_has(
    machine: OneMachine, runtime: RuntimeWithRunners
) -> None:
    store = SessionStore(machine.database)
    retry_on = (End.AGENT_LOST,)
    session = await ask_for_batch(machine, layers=THREE, retries=1, retry_on=retry_on)
    await began(machine, runtime, session, attempt=1)
    sub, lost = session.kernels[2].id, Exit(reason=ExitReason.AGENT_LOST, message="It was lost.")
    await store.move(sub, Status.TERMINATING, reason="It was lost.", by="t", now=1.0, exit=lost)
    await began(machine, runtime, session, attempt=2)
    runtime.ends(session.main.id, "failed", code=1)
    assert end_of(await machine.until_over(session)) is End.FAILED  # which is not to be tried


async def test_managers_that_all_see_an_end_count_one_attempt(
    machine: OneMachine, runtime: RuntimeWithRunners
) -> None:
    for _ in range(2):
        await machine.another_manager()
    session = await ask_for_batch(machine, layers=THREE, retries=3)
    for attempt in (1, 2, 3):
        await began(machine, runtime, session, attempt=attempt)
        runtime.ends(session.main.id, "failed", code=1)
    await began(machine, runtime, session, attempt=4)
    assert (await read(machine, session)).retries_left == 0


async def test_one_that_goes_on_without_some_is_not_tried_again(
    machine: OneMachine,
) -> None:
    layers = (Options(cluster_size=2, failure_policy=FailurePolicy.DEGRADED),)
    with pytest.raises(InvalidInput, match=r"batch\.retries.*is not tried again"):
        await ask_for_batch(machine, layers=layers, retries=1)
