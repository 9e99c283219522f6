"""The manager's ledger and the node agree about devices, whatever comes, goes or is killed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from tests.accelerators import some_devices
from tests.fakes import RuntimeThatRefusesToStart
from tests.helpers import eventually
from tests.unit.one_machine import OneMachine

SMALL: dict[str, Decimal | int] = {"cpu": Decimal("0.1"), "mem": 1 << 28}
ONE = Slots({**SMALL, "cuda.device": 1})
AMOUNTS = ("0.001", "0.25", "0.333", "0.5", "1", "1.5")

Start = Callable[..., Awaitable[OneMachine]]


@pytest.fixture
async def start(tmp_path: Path, url: str) -> AsyncIterator[Start]:
    """Start a machine with two devices."""
    machines: list[OneMachine] = []

    async def make(**how: object) -> OneMachine:
        machine = OneMachine(tmp_path, url, **how)  # type: ignore[arg-type]
        machine.plugin.devices = some_devices(2)
        machines.append(machine)
        await machine.start()
        return machine

    yield make
    for machine in machines:
        await machine.kill()


def device_of(machine: OneMachine, session: ComputeSession) -> str:
    return machine.runtime.specs[session.id].env["BACKENDAI_DEVICES"]


async def test_a_session_waits_until_a_device_is_free_and_gets_that_one(start: Start) -> None:
    machine = await start()
    first, second = await machine.started(ONE), await machine.started(ONE)
    third = await machine.ask_for(ONE)
    assert {device_of(machine, one) for one in (first, second)} == {"cuda0", "cuda1"}
    await machine.end(first)
    await machine.until_running(third)
    assert device_of(machine, third) == device_of(machine, first)


async def test_devices_stay_with_their_kernels_when_everything_else_is_killed(
    start: Start,
) -> None:
    machine = await start()
    first = await machine.started(ONE)
    had = device_of(machine, first)
    await machine.kill()
    await machine.start()
    second = await machine.started(ONE)
    assert device_of(machine, second) != had
    sessions = machine.manager.sessions
    generation = await sessions.restart(first.id, machine.manager.viewer, generation=1)
    await machine.until_running(first, generation=generation)
    assert device_of(machine, first) == had


async def test_a_start_that_failed_holds_no_device(start: Start) -> None:
    machine = await start(runtime=RuntimeThatRefusesToStart())
    for _ in range(3):
        session = await machine.ask_for(ONE + Slots({"cuda.device": 1}))
        assert (await machine.until_over(session)).status is Status.ERROR
        await eventually(machine.has_nothing)


@pytest.mark.parametrize("strategy", ["fill", "evenly"])
async def test_whoever_is_admitted_gets_what_was_asked_for(start: Start, strategy: str) -> None:
    """The manager knows sums only; that they suffice is the node's promise."""
    machine = await start(device_strategy=strategy, divide_devices=True)
    chance = random.Random(strategy)
    sessions: list[ComputeSession] = []
    for _ in range(40):
        if sessions and chance.random() < 0.45:
            await machine.end(sessions.pop(chance.randrange(len(sessions))))
        else:
            share = Slots.parse({"cuda.shares": chance.choice(AMOUNTS)})
            sessions.append(await machine.ask_for(Slots(SMALL) + share))
    waiting = list(sessions)
    while waiting:  # what still waits for room gets it when those before it end
        running = await eventually(partial(_running, machine, waiting))
        for session in running:
            await machine.end(session)
            over = await machine.until_over(session)
            assert over.status in (Status.TERMINATED, Status.CANCELLED), over.status_reason
        waiting = [session for session in waiting if session not in running]
    await eventually(machine.has_nothing)
    assert all(status is not Status.ERROR for status in await _statuses(machine))


async def _running(machine: OneMachine, asked: list[ComputeSession]) -> list[ComputeSession]:
    found = await machine.manager.sessions.list(machine.manager.viewer)
    done = {one.id for one in found if one.status is Status.RUNNING or one.status in FINAL}
    return [session for session in asked if session.id in done]


async def _statuses(machine: OneMachine) -> list[Status]:
    found = await machine.manager.sessions.list(machine.manager.viewer)
    return [session.status for session in found]
