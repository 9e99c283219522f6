"""The agent converges its containers to its assignments, whatever goes wrong on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backendai_jupyter.agent import worker
from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.agent.node import Node
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import (
    AgentReport,
    Assignment,
    ExitReason,
    KernelReport,
    Mount,
    Phase,
    Signal,
)
from backendai_jupyter.errors import BackendError, EngineAway, RuntimeFailed
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.supervisor import Supervisor
from tests.accelerators import PluginInMemory, make_pool
from tests.fakes import (
    RelayInMemory,
    RuntimeInMemory,
    RuntimeThatRefusesToStart,
    RuntimeThatStopsOnlyAtTheSecondTry,
    RuntimeWhoseProgramsDieAtOnce,
    answer_at_once,
    never_answer,
    time_out,
)
from tests.helpers import eventually
from tests.misbehaviour import RuntimeWhoseEngineEnds

Ask = Callable[..., Awaitable[object]]


class OneNode:
    """An agent over in-memory seams, and what a manager would do to it."""

    def __init__(
        self,
        tmp_path: Path,
        runtime: RuntimeInMemory,
        ask: Ask,
        cluster: MemoryClusterStore | None = None,
    ) -> None:
        self.runtime = runtime
        self.relay = RelayInMemory()
        self.cluster = cluster or MemoryClusterStore()
        self.live = MemoryLiveStore()
        self.sealer = Sealer()
        self.supervisor = Supervisor()
        self.host = VFolderHost("nfs", tmp_path / "nfs")
        self.node = Node(tmp_path / "run", tmp_path / "scratch", os.getuid(), os.getgid())
        self.cpus, self.notes = 1, ("as it is",)
        self.settings = BackendAIAgent(stop_grace_s=0, heartbeat_s=0.2)
        self.plugin = PluginInMemory()
        devices = make_pool(self.node.scratch_root, self.plugin, self.settings)
        runtimes = {runtime.name: runtime}
        tools = Tools(self.node, runtimes, self.relay, ask, self.settings, devices)  # type: ignore[arg-type]
        self.agent = Agent(
            "a",
            capacity=lambda: Slots({"cpu": self.cpus}),
            cluster=self.cluster,
            live=self.live,
            sealer=self.sealer,
            tools=tools,
            supervisor=self.supervisor,
            hosts={"nfs": self.host},
            notes=lambda: self.notes,
        )

    async def assign(self, *, generation: int = 1, **fields: object) -> None:
        assignment = Assignment(
            kernel_id="k",
            session_id="s",
            owner="u",
            generation=generation,
            image=str(fields.pop("image", "python")),
            argv=("python", "{connection_file}"),
            env={},
            limits=Slots({"mem": 512 * 1024**2}),
            **fields,  # type: ignore[arg-type]
        )
        await self.cluster.put(keys.assignment("a", "k"), assignment.model_dump_json())

    async def unassign(self) -> int:
        return await self.cluster.delete(keys.assignment("a", "k"))

    async def report(self) -> AgentReport:
        text = await self.live.get(keys.report("a"))
        assert text is not None
        return AgentReport.model_validate_json(text)

    async def until(self, phase: Phase, *, generation: int = 1) -> KernelReport:
        async def found() -> KernelReport | None:
            for kernel in (await self.report()).kernels:
                if kernel.phase is phase and kernel.generation == generation:
                    return kernel
            return None

        kernel = await eventually(found)
        assert kernel is not None
        return kernel

    async def until_nothing_is_left(self, revision: int) -> None:
        async def gone() -> bool:
            report = await self.report()
            return report.revision >= revision and not report.kernels

        await eventually(gone)
        assert not self.runtime.containers
        assert not self.relay.channels
        assert not self.node.run_dir("k").exists()
        assert not self.node.home_dir("k").exists()


Start = Callable[..., Awaitable[OneNode]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    nodes: list[OneNode] = []

    async def make(runtime: RuntimeInMemory | None = None, ask: Ask = answer_at_once) -> OneNode:
        node = OneNode(tmp_path, runtime or RuntimeInMemory(), ask)
        await node.agent.start()
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        await node.supervisor.close()


async def test_a_report_says_which_hosts_are_mounted_and_follows_them(start: Start) -> None:
    node = await start()
    assert (await node.report()).vfolder_hosts == {}
    node.host.prepare()

    async def told() -> dict[str, str]:
        return (await node.report()).vfolder_hosts

    assert await eventually(told) == {"nfs": node.host.marker()}


async def test_settings_that_change_show_in_the_report_at_once(start: Start) -> None:
    node = await start()
    node.settings.heartbeat_s = 600
    node.agent.settings_changed()
    node.cpus, node.notes = 2, ("as it was told",)
    node.agent.settings_changed()

    async def told() -> bool:
        report = await node.report()
        return (report.capacity, report.notes) == (Slots({"cpu": 2}), ("as it was told",))

    await eventually(told)
    assert (await node.report()).resource_group == "default"


async def test_an_assignment_becomes_a_running_kernel_and_then_nothing(start: Start) -> None:
    node = await start()
    await node.assign(mounts=(Mount(source="/srv/x", target="/home/work/data"),))
    kernel = await node.until(Phase.RUNNING)
    assert kernel.connection is not None
    connection = node.sealer.unseal(kernel.connection)
    assert connection.shell_port == node.relay.channels["k"].shell_port
    spec = node.runtime.specs["k"]
    assert spec.argv == ("python", "/run/backendai/connection.json")
    assert (node.node.home_dir("k") / "data").is_dir()
    assert (spec.run_dir / "connection.json").stat().st_mode & 0o777 == 0o600
    await node.until_nothing_is_left(await node.unassign())


async def test_a_restart_keeps_endpoint_and_key(start: Start) -> None:
    node = await start()
    await node.assign()
    before = await node.until(Phase.RUNNING)
    await node.assign(generation=2)
    after = await node.until(Phase.RUNNING, generation=2)
    assert node.runtime.starts == 2
    assert before.connection is not None
    assert after.connection is not None
    assert node.sealer.unseal(before.connection) == node.sealer.unseal(after.connection)


async def test_a_death_is_reported_with_its_reason_and_told_to_the_clients(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    node.runtime.die("k", 137, oom_killed=True)
    kernel = await node.until(Phase.EXITED)
    assert kernel.exit is not None
    assert kernel.exit.reason is ExitReason.OUT_OF_MEMORY
    assert "512 MiB" in kernel.exit.message
    assert kernel.exit.log_tail == "log of k"
    ((told, text),) = node.relay.notices
    assert told == "k"
    assert "512 MiB" in text


async def test_a_signal_is_delivered_once(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT))
    await eventually(lambda: node.runtime.signals)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGINT), workdir="/home/work/x")
    await node.assign(signal=Signal(seq=2, signum=signal.SIGTERM))
    await eventually(lambda: len(node.runtime.signals) > 1)
    assert node.runtime.signals == [("k", signal.SIGINT), ("k", signal.SIGTERM)]


async def test_a_folder_that_cannot_be_added_comes_with_the_next_program(start: Start) -> None:
    one = await start()
    folder = Mount(source="/v/1", target="/home/work/data")
    await one.assign()
    await one.until(Phase.RUNNING)
    await one.assign(mounts=(folder,), signal=Signal(seq=1, signum=2))
    await eventually(lambda: one.runtime.signals)  # the kernel goes on, and is obeyed
    assert not one.runtime.specs["k"].mounts
    await one.assign(generation=2, mounts=(folder,))
    await one.until(Phase.RUNNING, generation=2)
    assert one.runtime.specs["k"].mounts == (folder,)


async def test_an_end_that_was_asked_for_is_not_announced_as_a_death(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.assign(signal=Signal(seq=1, signum=signal.SIGKILL))
    await eventually(lambda: node.runtime.signals)
    node.runtime.die("k", 128 + signal.SIGKILL)
    await node.until(Phase.EXITED)
    assert node.relay.notices == []


@pytest.mark.parametrize(
    ("runtime", "ask", "image", "step", "words"),
    [
        pytest.param(RuntimeInMemory, answer_at_once, "r", "image", "no image 'r'", id="image"),
        pytest.param(
            RuntimeThatRefusesToStart,
            answer_at_once,
            "python",
            "container",
            "no space",
            id="engine",
        ),
        pytest.param(
            RuntimeWhoseProgramsDieAtOnce,
            never_answer,
            "python",
            "answer",
            "exit code 1",
            id="dies",
        ),
        pytest.param(RuntimeInMemory, time_out, "python", "answer", "in time", id="silent"),
    ],
)
async def test_a_failed_start_names_its_step_and_leaves_nothing(
    start: Start, runtime: type[RuntimeInMemory], ask: Ask, image: str, step: str, words: str
) -> None:
    """F10, F26: neither container nor channels are left of it."""
    node = await start(runtime(), ask)
    await node.assign(image=image)
    kernel = await node.until(Phase.FAILED)
    assert kernel.step == step
    assert kernel.exit is not None
    assert words in kernel.exit.message
    assert not node.runtime.containers
    assert not node.relay.channels
    await node.until_nothing_is_left(await node.unassign())


AWAY = EngineAway("nobody listens")
REFUSED = RuntimeFailed("the engine is about to end")


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> RuntimeWhoseEngineEnds:
    """An engine that is asked again soon."""
    monkeypatch.setattr(worker, "_TRY_AGAIN_S", 0.001)
    return RuntimeWhoseEngineEnds()


@pytest.fixture
async def restarting(start: Start, runtime: RuntimeWhoseEngineEnds) -> OneNode:
    """A node with a kernel that has run once on that engine."""
    node = await start(runtime, runtime.ask)
    await node.assign()
    await node.until(Phase.RUNNING)
    (node.node.home_dir("k") / "kept").touch()
    return node


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([AWAY] * 20, id="away"),
        pytest.param([REFUSED, signal.SIGTERM, AWAY, AWAY], id="about to end"),
        pytest.param([signal.SIGKILL] * 4, id="kills what it starts"),
    ],
)
async def test_a_restart_waits_for_an_engine_that_ends_and_comes_back(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds, failures: list[BackendError | int]
) -> None:
    endpoint = dict(restarting.relay.channels)
    runtime.failures = [*failures]
    await restarting.assign(generation=2)
    await restarting.until(Phase.RUNNING, generation=2)
    assert runtime.failures == []
    assert restarting.relay.channels == endpoint
    assert (restarting.node.home_dir("k") / "kept").exists()


async def test_a_restart_that_is_refused_every_time_fails(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds
) -> None:
    runtime.failures = [REFUSED] * 20
    await restarting.assign(generation=2)
    kernel = await restarting.until(Phase.FAILED, generation=2)
    assert kernel.exit is not None
    assert "about to end" in kernel.exit.message
    assert not restarting.relay.channels
    await restarting.until_nothing_is_left(await restarting.unassign())


async def test_a_first_start_does_not_wait_for_an_engine(
    start: Start, runtime: RuntimeWhoseEngineEnds
) -> None:
    """It may happen on another node."""
    node = await start(runtime)
    runtime.failures = [AWAY]
    await node.assign()
    kernel = await node.until(Phase.FAILED)
    assert kernel.exit is not None
    assert kernel.exit.cause == "engine-away"


async def test_an_end_while_a_restart_waits_for_the_engine_is_obeyed(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds
) -> None:
    runtime.failures = [AWAY] * 1_000_000
    await restarting.assign(generation=2)
    await eventually(lambda: len(runtime.failures) < 999_990)
    await restarting.until_nothing_is_left(await restarting.unassign())


async def test_an_end_during_a_start_is_obeyed(start: Start) -> None:
    node = await start(ask=never_answer)
    await node.assign()
    await eventually(lambda: node.runtime.containers)
    await node.until_nothing_is_left(await node.unassign())


async def test_a_container_that_nobody_assigned_is_removed(start: Start) -> None:
    """F24: what no row knows is removed."""
    runtime = RuntimeInMemory()
    node = await start(runtime)
    await node.assign()
    await node.until(Phase.RUNNING)
    spec = runtime.specs["k"]
    await runtime.start(replace(spec, kernel_id="orphan"))
    await eventually(lambda: "orphan" not in runtime.containers)
    assert "k" in runtime.containers


async def test_a_removal_that_fails_is_tried_again(start: Start) -> None:
    node = await start(RuntimeThatStopsOnlyAtTheSecondTry())
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.until_nothing_is_left(await node.unassign())


async def test_a_container_that_somebody_else_removed_is_noticed(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    node.runtime.containers.clear()
    kernel = await node.until(Phase.EXITED)
    assert kernel.exit is not None
    assert "removed by somebody else" in kernel.exit.message


async def test_a_log_comes_when_it_is_asked_for(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    async with node.live.subscribe(keys.log_hints("k")) as told:
        await node.live.publish(keys.log_requests("a"), "k")
        assert await anext(told) == "k"
    assert await node.live.get(keys.log("k")) == "log of k"


async def test_what_another_version_has_assigned_stays_as_it_is_and_is_told(start: Start) -> None:
    node = await start()
    await node.assign()
    await node.until(Phase.RUNNING)
    await node.cluster.put(keys.assignment("a", "k"), '{"kernel_id": "k", "limits": "new"}')

    async def note() -> str:
        return "".join(n for n in (await node.report()).notes if "is not followed" in n)

    assert "assignments/a/k is not followed: it cannot be read (session_id: " in await eventually(
        note
    )
    await node.until(Phase.RUNNING)
    assert node.runtime.starts == 1
    await node.until_nothing_is_left(await node.unassign())
    assert await note() == ""
