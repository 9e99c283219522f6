"""A kernel that has died is started again at once, the next times as often as Jupyter would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from traitlets import Any as AnyTrait

from backendai_jupyter.errors import LaunchFailed
from backendai_jupyter.provisioning.restarter import Restarter
from tests.helpers import eventually


class DyingKernel:
    """A kernel manager whose program is dead; ``restarts`` counts how often it was started."""

    provisioner = None
    shutting_down = False

    def __init__(self) -> None:
        self.restarts = 0
        self.execution_state = "idle"
        self.reason = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def is_alive(self) -> bool:
        return False

    async def restart_kernel(self, **_: Any) -> None:
        await self.gate.wait()
        self.restarts += 1


class KernelThatCannotBeStarted(DyingKernel):
    async def restart_kernel(self, **_: Any) -> None:
        raise LaunchFailed("container", "no space left")


class RestarterOfAnything(Restarter):
    kernel_manager = AnyTrait()


@pytest.fixture
async def kernel() -> DyingKernel:
    return DyingKernel()


@pytest.fixture
async def restarter(kernel: DyingKernel) -> AsyncIterator[Restarter]:
    made = RestarterOfAnything(kernel_manager=kernel)
    made.start()
    yield made
    made.stop()


async def test_the_first_restart_is_at_once_and_the_next_waits_for_jupyters_poll(
    restarter: Restarter, kernel: DyingKernel
) -> None:
    await restarter.look()
    assert kernel.restarts == 1
    assert kernel.execution_state == "idle"
    await restarter.look()
    assert kernel.restarts == 1
    await restarter.poll()
    assert kernel.restarts == 2


async def test_two_who_look_at_once_are_one(restarter: Restarter, kernel: DyingKernel) -> None:
    kernel.gate.clear()
    first = asyncio.create_task(restarter.look())
    await eventually(lambda: kernel.execution_state == "restarting")
    await restarter.look()
    await restarter.poll()
    kernel.gate.set()
    await first
    assert kernel.restarts == 1


async def test_after_too_many_it_is_dead(restarter: Restarter, kernel: DyingKernel) -> None:
    heard: list[str] = []
    restarter.add_callback(lambda: heard.append("dead"), "dead")
    for _ in range(restarter.restart_limit + 1):
        await restarter.poll()
    assert heard == ["dead"]
    assert (kernel.restarts, kernel.execution_state) == (restarter.restart_limit, "dead")
    assert not restarter.watches
    await restarter.look()
    assert kernel.restarts == restarter.restart_limit


async def test_where_another_attempt_cannot_help_there_is_none() -> None:
    kernel = KernelThatCannotBeStarted()
    restarter = RestarterOfAnything(kernel_manager=kernel)
    restarter.start()
    await restarter.look()
    assert (kernel.execution_state, kernel.reason) == ("dead", "no space left")
    assert not restarter.watches


async def test_a_restart_under_way_can_be_given_up(
    restarter: Restarter, kernel: DyingKernel
) -> None:
    kernel.gate.clear()
    looking = asyncio.create_task(restarter.look())
    await eventually(lambda: kernel.execution_state == "restarting")
    await restarter.abort()
    assert looking.cancelled()
    assert kernel.restarts == 0
    await restarter.abort()
