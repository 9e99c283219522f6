"""Sessions of several kernels: all start or none does; policies decide about the end of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Kernel
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.errors import LaunchFailed
from backendai_jupyter.manager.shared import shared
from tests.fakes import (
    LiveStoreOfAgentsWithNetworks,
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
)
from tests.helpers import eventually
from tests.misbehaviour import RuntimeThatIsHeldWhileItStarts
from tests.unit.one_machine import OneMachine

BOTH = [Status.RUNNING, Status.RUNNING]


@pytest.fixture
def runtime() -> RuntimeInMemory:
    return RuntimeInMemory()


@pytest.fixture
async def machine(tmp_path: Path, url: str, runtime: RuntimeInMemory) -> AsyncIterator[OneMachine]:
    made = OneMachine(tmp_path, url, runtime=runtime, live=LiveStoreOfAgentsWithNetworks)
    await made.start()
    yield made
    await made.kill()


async def two(machine: OneMachine, **options: object) -> ComputeSession:
    """Ask for a session of two kernels."""
    return await machine.ask_for(kernel_id="k", options={"cluster_size": 2, **options})


async def two_up(machine: OneMachine, **options: object) -> ComputeSession:
    session = await two(machine, **options)
    await machine.until_running(session)
    return await get(machine, session)


async def get(machine: OneMachine, session: ComputeSession) -> ComputeSession:
    return await machine.manager.sessions.get(session.id, SYSTEM)


def networks(machine: OneMachine) -> dict[str, bool]:
    assert isinstance(machine._live, LiveStoreOfAgentsWithNetworks)
    return machine._live.networks


def sub(session: ComputeSession) -> Kernel:
    return session.kernel("sub1")


async def test_both_kernels_run_and_know_each_other(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await two_up(machine, startup={"sub": ["worker", "tcp://main1:8786"]})
    assert [k.hostname for k in session.kernels] == ["main1", "sub1"]
    assert [k.status for k in session.kernels] == BOTH
    assert (session.status, session.started_at is not None) == (Status.RUNNING, True)
    main, other = (runtime.specs[k.id] for k in session.kernels)
    assert (main.hostname, other.hostname) == ("main1", "sub1")
    assert main.mounts == other.mounts
    for rank, spec in enumerate((main, other)):
        assert spec.env["BACKENDAI_SESSION_ID"] == session.id
        assert spec.env["BACKENDAI_KERNEL_ID"] == spec.kernel_id
        assert spec.env["BACKENDAI_CLUSTER_SIZE"] == "2"
        assert spec.env["BACKENDAI_CLUSTER_REPLICAS"] == "main:1,sub:1"
        assert spec.env["BACKENDAI_CLUSTER_HOSTS"] == "main1,sub1"
        assert spec.env["BACKENDAI_CLUSTER_HOST"] == spec.hostname
        assert spec.env["BACKENDAI_CLUSTER_ROLE"] == spec.hostname[:-1]
        assert spec.env["BACKENDAI_CLUSTER_IDX"] == "1"
        assert spec.env["BACKENDAI_CLUSTER_LOCAL_RANK"] == str(rank)
    assert main.argv[0] == "python"
    assert other.argv[:2] == ("/bin/sh", "-c")
    assert other.argv[2].startswith("worker tcp://main1:8786 ")
    assert other.argv[4:] == main.argv[:1] + other.argv[5:]


async def test_the_main_kernel_is_given_out_when_all_run(tmp_path: Path, url: str) -> None:
    """Whoever waits for a session waits for all of it."""
    machine = OneMachine(tmp_path, url, live=LiveStoreOfAgentsWithNetworks)
    answers: list[str] = []
    may_answer = asyncio.Event()

    async def answer(*_: object, **__: object) -> None:
        answers.append("asked")
        if len(answers) == 2:
            await may_answer.wait()

    machine.ask = answer
    await machine.start()
    try:
        session = await two(machine)
        waiting = asyncio.create_task(machine.until_running(session))
        await machine.until(session, Status.CREATING)
        await eventually(lambda: len(answers) == 2)
        one_runs = [Status.CREATING, Status.RUNNING]

        async def runs() -> bool:
            return sorted(k.status for k in (await get(machine, session)).kernels) == one_runs

        await eventually(runs)
        assert not waiting.done()
        viewer = machine.manager.viewer
        assert (await shared(machine.manager, viewer)).reachable == {}
        may_answer.set()
        await waiting
        found = await shared(machine.manager, viewer)
        assert list(found.reachable) == ["k", sub(session).id]
    finally:
        await machine.kill()


@pytest.mark.parametrize("runtime", [RuntimeThatRefusesToStart()])
async def test_all_are_taken_back_and_tried_elsewhere(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    """F33: of a partial start nothing is left, and nobody but the history hears of it."""
    session = await two(machine)
    waiting = asyncio.create_task(machine.until_running(session))
    await eventually(lambda: was_taken_back(machine, session))
    good = await machine.another_agent("b")
    async with asyncio.timeout(10):
        await waiting
    now = await get(machine, session)
    assert {k.agent_id for k in now.kernels} == {"b"}
    assert now.failed_on == ("a",)
    assert len(good.containers) == 2
    assert await machine.held() == {"cpu": (0, 2000), "mem": (0, (2 << 30) * 1000)}
    reasons = [step.reason for step in await machine.manager.sessions.history(session.id, SYSTEM)]
    assert any("no space left" in r and "tried elsewhere" in r for r in reasons)


async def test_the_loss_of_an_agent_takes_a_start_back_to_the_others(machine: OneMachine) -> None:
    """F33: kernels that had already started elsewhere start anew with it."""
    machine.settings.agent_lost_s = 1.0
    held = RuntimeThatIsHeldWhileItStarts()
    await machine.another_agent("b", runtime=held)
    session = await two(machine, cluster_mode="multi-node")
    networks(machine)[session.id] = True
    waiting = asyncio.create_task(machine.until_running(session))
    await eventually(lambda: bool(held.containers))
    await machine.kill_agent("b")
    await eventually(lambda: was_taken_back(machine, session))
    networks(machine).clear()
    await eventually(lambda: was_placed_on(machine, session, {"a"}))
    networks(machine)[session.id] = True
    await waiting
    assert (await get(machine, session)).status is Status.RUNNING


async def test_the_loss_of_an_agent_later_is_a_matter_of_policy(machine: OneMachine) -> None:
    machine.settings.agent_lost_s = 1.0
    await machine.another_agent("b")
    session = await two(machine, cluster_mode="multi-node")
    networks(machine)[session.id] = True
    await machine.until_running(session)
    await machine.kill_agent("b")
    await machine.until(session, Status.TERMINATING)
    networks(machine).clear()
    assert "lost" in (await machine.until_over(session)).status_reason
    await eventually(machine.has_nothing)


async def was_placed_on(machine: OneMachine, session: ComputeSession, agents: set[str]) -> bool:
    return {k.agent_id for k in (await get(machine, session)).kernels} == agents


async def was_taken_back(machine: OneMachine, session: ComputeSession) -> bool:
    return (await get(machine, session)).attempts > 0


@pytest.mark.parametrize("runtime", [RuntimeThatRefusesToStart()])
async def test_what_cannot_start_anywhere_is_told_after_the_last_attempt(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await two(machine)
    with pytest.raises(LaunchFailed, match="no space left on device"):
        await machine.until_running(session)
    over = await machine.until_over(session)
    assert over.status is Status.ERROR
    assert over.attempts == machine.settings.start_attempts - 1
    assert await machine.has_nothing()


async def test_programs_that_die_before_all_are_up_are_a_start_that_failed(
    tmp_path: Path, url: str
) -> None:
    machine = OneMachine(tmp_path, url, live=LiveStoreOfAgentsWithNetworks)
    answered: list[str] = []

    async def answer(*_: object, **__: object) -> None:
        answered.append("asked")
        if len(answered) % 2 == 0:  # the second of each attempt never does
            await asyncio.Event().wait()

    machine.ask = answer
    await machine.start()
    try:
        session = await two(machine)
        waiting = asyncio.create_task(machine.until_running(session))
        for attempt in range(1, machine.settings.start_attempts + 1):
            runs = await eventually(partial(one_that_runs, machine, session, attempt))
            machine.runtime.die(runs, 1)
        with pytest.raises(LaunchFailed, match="code 1"):
            await waiting
        await machine.until_over(session)
        assert await machine.has_nothing()
    finally:
        await machine.kill()


async def one_that_runs(machine: OneMachine, session: ComputeSession, attempt: int) -> str:
    now = await get(machine, session)
    running = [k.id for k in now.kernels if k.status is Status.RUNNING]
    is_next = now.attempts == attempt - 1 and len(machine.runtime.containers) == 2
    return running[0] if running and is_next else ""


async def test_a_start_ends_with_a_server_that_is_killed_and_what_is_up_goes_on(
    tmp_path: Path, url: str
) -> None:
    runtime = RuntimeThatIsHeldWhileItStarts()
    machine = OneMachine(tmp_path, url, runtime=runtime, live=LiveStoreOfAgentsWithNetworks)
    runtime.may_go_on.set()
    await machine.start()
    try:
        up = await two_up(machine)
        runtime.may_go_on.clear()
        starting = await two(machine)
        await eventually(lambda: len(runtime.containers) > len(up.kernels))
        await machine.kill()
        runtime.may_go_on.set()
        await machine.start()
        over = await machine.until_over(starting)
        assert "server ended before" in over.status_reason
        assert [one.kernel.id for one in machine.survived] == [k.id for k in up.kernels]
        await eventually(lambda: set(runtime.containers) == {k.id for k in up.kernels})
    finally:
        await machine.kill()


async def test_a_sub_that_dies_takes_the_others_with_it(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await two_up(machine)
    runtime.die(sub(session).id, 137, oom_killed=True)
    over = await machine.until_over(session)
    assert "sub1 has ended, and the session ends with it" in over.main.status_reason
    assert "memory" in over.main.status_reason
    await eventually(machine.has_nothing)


async def test_a_degraded_session_goes_on_without_a_sub_and_says_so(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await two_up(machine, failure_policy="degraded")
    gone = sub(session)
    runtime.die(gone.id, 1)

    async def ended() -> bool:
        return sub(await get(machine, session)).status in FINAL

    await eventually(ended)
    now = await get(machine, session)
    assert (now.status, now.main.status) == (Status.RUNNING, Status.RUNNING)
    assert now.status_reason.startswith("It goes on without sub1.")
    assert await machine.held() == {"cpu": (0, 1000), "mem": (0, (1 << 30) * 1000)}
    assert list((await shared(machine.manager, machine.manager.viewer)).reachable) == ["k"]
    await machine.end(session)
    assert (await machine.until_over(session)).status is Status.TERMINATED
    await eventually(machine.has_nothing)


@pytest.mark.parametrize("policy", ["end", "degraded"])
async def test_no_session_outlives_its_main_kernel(
    machine: OneMachine, runtime: RuntimeInMemory, policy: str
) -> None:
    """F34: kernels beside one that is gone neither run on nor hold up others."""
    session = await two_up(machine, failure_policy=policy)
    await machine.manager.sessions.terminate_kernel(session.main.id, SYSTEM, reason="So.")
    over = await machine.until_over(session)
    assert "main1 has ended" in sub(over).status_reason
    await eventually(machine.has_nothing)
    assert (await two_up(machine)).status is Status.RUNNING


async def test_a_restart_of_the_main_kernel_keeps_the_others(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    session = await two_up(machine)
    container = runtime.containers[sub(session).id]
    runtime.die(session.main.id, 0)
    await machine.until(session, Status.RESTARTING)
    await machine.manager.sessions.restart(session.main.id, SYSTEM, generation=1)
    await machine.until_running(session, generation=2)
    assert runtime.containers[sub(session).id] == container
    now = await get(machine, session)
    assert [(k.status, k.generation) for k in now.kernels] == [
        (Status.RUNNING, 2),
        (Status.RUNNING, 1),
    ]


async def test_a_sub_may_be_restarted_too(machine: OneMachine, runtime: RuntimeInMemory) -> None:
    session = await two_up(machine)
    kernel_id = sub(session).id
    await machine.manager.sessions.restart(kernel_id, SYSTEM, generation=1)
    async with asyncio.timeout(10):
        await machine.manager.sessions.until_running(kernel_id, generation=2)
    assert runtime.containers[kernel_id].generation == 2
    assert runtime.containers[session.main.id].generation == 1


async def test_a_network_is_made_before_and_released_after_all_others(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    """Kernels start on a network that is ready, and no session ends before its network."""
    await machine.another_agent("b")
    session = await two(machine, cluster_mode="multi-node")
    await machine.until(session, Status.SCHEDULED)

    async def records() -> list[str]:
        return [entry.key for entry in (await machine._cluster.list(keys.NETWORKS)).entries]

    assert await eventually(records) == [keys.network("a", session.id)]
    networks(machine)[session.id] = False
    assert (await machine._cluster.list(keys.ASSIGNMENTS)).entries == ()
    networks(machine)[session.id] = True
    await machine.until_running(session)
    await machine.end(session)

    async def no_record() -> bool:
        return not await records() and not runtime.containers

    await eventually(no_record)
    assert (await get(machine, session)).status is Status.TERMINATING
    del networks(machine)[session.id]
    await machine.until_over(session)
    await eventually(machine.has_nothing)


async def test_another_agent_takes_over_the_network_of_one_that_is_gone(
    machine: OneMachine, runtime: RuntimeInMemory
) -> None:
    await machine.another_agent("0")  # the first that may make networks
    await machine.manager.drain("0", is_drained=True)
    session = await two(machine, cluster_mode="multi-node")
    networks(machine)[session.id] = True
    await machine.until_running(session)

    async def is_made_by(agent_id: str) -> bool:
        found = (await machine._cluster.list(keys.NETWORKS)).entries
        return [entry.key for entry in found] == [keys.network(agent_id, session.id)]

    assert await is_made_by("0")
    await machine.kill_agent("0")
    await eventually(lambda: is_made_by("a"))
    assert len(runtime.containers) == 2
    assert (await get(machine, session)).status is Status.RUNNING
