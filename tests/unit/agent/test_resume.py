"""An agent goes on after a crash: its own, its runtime's, its relay's."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.runtime.base import ContainerState
from backendai_jupyter.domain.wire import Phase, Signal
from backendai_jupyter.errors import RuntimeFailed
from tests.fakes import PYTHON, RuntimeInMemory, answer_at_once
from tests.helpers import eventually
from tests.unit.agent.one_node import OneNode

Make = Callable[[RuntimeInMemory], OneNode]


class RuntimeThatIsDownAtTheFirstSignal(RuntimeInMemory):
    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    async def signal(self, kernel_id: str, signum: int) -> None:
        if self.failures == 0:
            self.failures = 1
            raise RuntimeFailed("the engine cannot be reached")
        await super().signal(kernel_id, signum)


class RuntimeThatIsSlowWithSignals(RuntimeInMemory):
    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def signal(self, kernel_id: str, signum: int) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().signal(kernel_id, signum)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make nodes whose agents have not started yet."""
    nodes: list[OneNode] = []

    def make(runtime: RuntimeInMemory) -> OneNode:
        nodes.append(OneNode(tmp_path, runtime, answer_at_once))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.supervisor.close()


async def started(node: OneNode) -> OneNode:
    await node.assign()
    await node.agent.start()
    await node.until(Phase.RUNNING)
    return node


async def test_a_program_that_ended_with_the_agent_that_was_starting_it_is_started_again(
    make: Make,
) -> None:
    runtime = RuntimeInMemory()
    runtime.containers["k"] = ContainerState("k", 2, "half started", 137)
    node = make(runtime)
    under_way = Checkpoint(kernel_id="k", generation=2, image=PYTHON, key="secret")
    node.node.checkpoints.write(under_way)
    await node.assign(generation=2)
    await node.agent.start()
    await node.until(Phase.RUNNING, generation=2)
    assert runtime.containers["k"].container_id != "half started"


async def test_a_signal_counts_as_delivered_only_when_it_was(make: Make) -> None:
    runtime = RuntimeThatIsSlowWithSignals()
    node = await started(make(runtime))
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT))
    await runtime.asked.wait()
    assert node.agent._workers["k"].report().signal_seq == 0
    runtime.go_on.set()
    await eventually(lambda: node.agent._workers["k"].report().signal_seq == 1)


async def test_an_engine_that_is_down_for_a_moment_costs_no_kernel_its_worker(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = RuntimeThatIsDownAtTheFirstSignal()
    node = await started(make(runtime))
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT))
    await eventually(lambda: runtime.failures)
    await node.assign(signal=Signal(seq=2, signum=signal.SIGTERM))
    await eventually(lambda: runtime.signals == [("k", signal.SIGTERM)])
    assert "died" not in caplog.text


async def test_a_relay_that_comes_back_gets_no_channels_of_a_kernel_that_goes(make: Make) -> None:
    node = await started(make(RuntimeInMemory()))
    worker = node.agent._workers["k"]
    worker.want(None)
    node.relay.channels.clear()
    await worker.reopen()
    assert not node.relay.channels


async def test_a_stop_waits_until_nothing_is_left_of_kernels_that_have_ended(make: Make) -> None:
    node = await started(make(RuntimeInMemory()))
    await node.unassign()
    assert await node.agent.stop_all(within_s=5.0)
    assert not node.runtime.containers
    assert not node.relay.channels
