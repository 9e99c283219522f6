"""What an agent publishes: one kernel or runtime in trouble costs the others nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.runtime.base import ContainerState, Origin
from backendai_jupyter.agent.statistics.statistics import Statistics
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryLiveStore
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.statistics import AgentStatistics
from backendai_jupyter.errors import RuntimeFailed
from tests.contract.clock import SettableClock
from tests.fakes import RuntimeInMemory


class RuntimeOfThisProcess(RuntimeInMemory):
    """Its kernels all consist of what descends from this test's parent."""

    async def origin(self, kernel_id: str) -> Origin | None:
        return Origin(os.getpid(), reaper=os.getppid())

    def run(self, kernel_id: str, *, generation: int = 1) -> None:
        container = f"no-group-{kernel_id}-{generation}"
        self.containers[kernel_id] = ContainerState(kernel_id, generation, container, None)


class RuntimeThatCannotFindOneKernel(RuntimeOfThisProcess):
    async def origin(self, kernel_id: str) -> Origin | None:
        if kernel_id == "lost":
            raise RuntimeFailed("the engine does not know it")
        return await super().origin(kernel_id)


class RuntimeThatConfusesOneKernel(RuntimeOfThisProcess):
    """What it says of it makes no sense at all."""

    async def origin(self, kernel_id: str) -> Origin | None:
        if kernel_id == "confused":
            return Origin(os.getpid(), reaper=[])  # type: ignore[arg-type]
        return await super().origin(kernel_id)


class RuntimeThatIsDown(RuntimeInMemory):
    name = "down"

    async def list(self) -> list[ContainerState]:
        raise RuntimeFailed("no engine answers")


class Measured:
    def __init__(self, root: Path, *runtimes: RuntimeInMemory) -> None:
        (root / "scratch").mkdir()
        self.clock = SettableClock()
        self.live = MemoryLiveStore(clock=self.clock)
        self.settings = BackendAIAgent(statistics_s=2.0)
        self.statistics = Statistics(
            "a",
            runtimes={runtime.name: runtime for runtime in runtimes},
            node=Node(root / "run", root / "scratch", os.getuid(), os.getgid()),
            settings=self.settings,
            live=self.live,
        )

    async def step(self) -> AgentStatistics:
        await self.statistics.step()
        text = await self.live.get(keys.statistics("a"))
        assert text is not None
        return AgentStatistics.model_validate_json(text)


@pytest.fixture
async def runtime() -> AsyncIterator[RuntimeOfThisProcess]:
    yield RuntimeOfThisProcess()


async def test_what_runs_is_measured(tmp_path: Path, runtime: RuntimeOfThisProcess) -> None:
    runtime.run("k")
    measured = Measured(tmp_path, runtime)
    found = await measured.step()
    assert found.node.kernels_running == 1
    kernel = found.kernels["k"]
    assert (kernel.generation, kernel.cpu_cores) == (1, None)
    assert (kernel.cpu_used_s or 0) > 0
    assert (kernel.memory_used_bytes or 0) > 1 << 20
    runtime.die("k", 1)
    found = await measured.step()
    assert (found.kernels, found.node.kernels_running) == ({}, 0)


async def test_a_restart_begins_with_a_new_meter(
    tmp_path: Path, runtime: RuntimeOfThisProcess
) -> None:
    measured = Measured(tmp_path, runtime)
    runtime.run("k")
    await measured.step()
    runtime.run("k", generation=2)
    kernel = (await measured.step()).kernels["k"]
    assert (kernel.generation, kernel.cpu_cores) == (2, None)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(RuntimeThatCannotFindOneKernel, "lost"), (RuntimeThatConfusesOneKernel, "confused")],
)
async def test_one_kernel_in_trouble_costs_the_others_nothing(
    tmp_path: Path, kind: type[RuntimeOfThisProcess], bad: str
) -> None:
    runtime = kind()
    for kernel_id in (bad, "k"):
        runtime.run(kernel_id)
    found = await Measured(tmp_path, runtime).step()
    assert (set(found.kernels), found.node.kernels_running) == ({"k"}, 2)


async def test_one_runtime_in_trouble_costs_the_other_nothing(
    tmp_path: Path, runtime: RuntimeOfThisProcess
) -> None:
    runtime.run("k")
    found = await Measured(tmp_path, RuntimeThatIsDown(), runtime).step()
    assert set(found.kernels) == {"k"}


async def test_what_an_agent_says_no_more_goes_by_itself(tmp_path: Path) -> None:
    measured = Measured(tmp_path)
    await measured.step()
    measured.clock.now += 5.9
    assert await measured.live.get(keys.statistics("a")) is not None
    measured.clock.now += 0.2
    assert await measured.live.get(keys.statistics("a")) is None
