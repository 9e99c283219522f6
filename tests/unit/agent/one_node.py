"""An agent over seams in memory, and what a manager would do to it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.agent.networks import SessionNetworks
from backendai_jupyter.agent.node import Node
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import (
    AgentReport,
    Assignment,
    KernelReport,
    Phase,
)
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.supervisor import Supervisor
from tests.accelerators import PluginInMemory, make_pool
from tests.fakes import (
    RelayInMemory,
    RuntimeInMemory,
)
from tests.helpers import eventually

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
        networks = SessionNetworks(runtimes)
        tools = Tools(
            self.node,
            runtimes,
            self.relay,
            ask,  # type: ignore[arg-type]
            self.settings,
            devices,
            networks,
            self.sealer.secret_of,
        )
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
        text = await eventually(lambda: self.live.get(keys.report("a")))  # it expires, where
        assert text is not None  # the agent is kept waiting
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
