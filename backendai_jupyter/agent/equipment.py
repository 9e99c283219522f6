"""What an agent works with, made from its settings: in a Jupyter Server and as a daemon alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from backendai_jupyter.agent.accelerators.plugins import make_plugin
from backendai_jupyter.agent.accelerators.pool import DevicePool
from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.agent.networks import SessionNetworks
from backendai_jupyter.agent.node import Node, kernel_identity, measure_capacity
from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.probe import kernel_info
from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.docker_engine import find_engine
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.resources import Slots, parse_size
from backendai_jupyter.errors import RuntimeFailed, Unavailable
from backendai_jupyter.points import reached
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Site:
    """Whose agent it is, and where it keeps what belongs to its kernels."""

    agent_id: str
    cluster_id: str
    run_root: Path  # sockets; short
    scratch_root: Path  # kernels' home directories

    @property
    def process_dir(self) -> Path:
        """Where the process runtime keeps what it knows of its kernels."""
        return self.run_root / "p"


class _Runtimes(dict[str, KernelRuntime]):
    """Those of this agent, by name; the agent before it may have had others."""

    def __missing__(self, name: str) -> KernelRuntime:
        raise RuntimeFailed(
            f"There was no {name} runtime when this agent started, and kernels of it are left. "
            "See that it is there, and start the agent again."
        )


class Equipment:
    """The relay, the runtimes and the devices of one agent.

    Where it ``leaves_kernels`` they go on at the end, and with them the relay.  With an
    ``orphan_command`` the relay becomes that command when this process dies.
    """

    def __init__(
        self,
        settings: BackendAIAgent,
        site: Site,
        *,
        use_docker: bool,
        leaves_kernels: bool,
        orphan_command: Sequence[str] | None = None,
    ) -> None:
        self._settings = settings
        self._site = site
        self._leaves_kernels = leaves_kernels
        self._agent: Agent | None = None
        self._opened = AsyncExitStack()
        self.relay = RelayClient(
            site.run_root / "relay",
            bind=settings.relay_bind,
            host=settings.relay_host,
            orphan_command=orphan_command,
            on_lost=self._relay_lost,
        )
        self.runtimes = _runtimes(settings, site, use_docker)
        self.devices = DevicePool(make_plugin(settings), site.scratch_root, settings)

    async def open(self) -> None:
        self._opened.push_async_callback(self.devices.close)
        self._opened.push_async_callback(self._leave_relay)
        await asyncio.gather(self.relay.open(), *(self._open(one) for one in self.runtimes))

    async def close(self) -> None:
        """Close what was opened, also where ``open`` has failed."""
        await self._opened.aclose()

    def agent(
        self,
        *,
        cluster: ClusterStore,
        live: LiveStore,
        sealer: Sealer,
        supervisor: Supervisor,
        hosts: Mapping[str, VFolderHost],
        notes: Callable[[], tuple[str, ...]] = tuple,
    ) -> Agent:
        """Return the agent that works with all this; start it once this is open.

        ``notes`` are what it reports beside those of its runtimes.
        """
        settings, site = self._settings, self._site
        uid, gid = kernel_identity(settings.kernel_uid)
        runtimes = _Runtimes({runtime.name: runtime for runtime in self.runtimes})
        tools = Tools(
            node=Node(site.run_root, site.scratch_root, uid, gid),
            runtimes=runtimes,
            relay=self.relay,
            ask=kernel_info,
            settings=settings,
            devices=self.devices,
            networks=SessionNetworks(runtimes),
            secret_of=sealer.secret_of,
        )
        self._agent = Agent(
            site.agent_id,
            capacity=self._capacity,
            cluster=cluster,
            live=live,
            sealer=sealer,
            tools=tools,
            supervisor=supervisor,
            hosts=hosts,
            notes=notes,
        )
        return self._agent

    def _capacity(self) -> Slots:
        return measure_capacity(
            cpu_overcommit=self._settings.cpu_overcommit,
            mem_reserve_bytes=parse_size(self._settings.mem_reserve),
        )

    async def _open(self, runtime: KernelRuntime) -> None:
        await runtime.open()
        self._opened.push_async_callback(runtime.close)

    def _relay_lost(self) -> None:
        if self._agent is not None:
            self._agent.relay_lost()

    async def _leave_relay(self) -> None:
        """End the relay, unless there are kernels that go on."""
        await reached("agent.relay.leave")
        await self.relay.close(stop=not self._leaves_kernels or not await self.relay.kernels())


async def wants_docker(settings: BackendAIAgent) -> bool:
    """Return whether there is an engine for kernels; ``Unavailable`` where one is asked for."""
    if settings.runtime == "process":
        return False
    found = await find_engine(settings.docker_url or None)
    if settings.runtime == "docker" and not found:
        raise Unavailable(
            "BackendAIAgent.runtime is 'docker', but no Docker engine answers. "
            "Start it, or set BackendAIAgent.docker_url."
        )
    return found


def _runtimes(settings: BackendAIAgent, site: Site, use_docker: bool) -> list[KernelRuntime]:
    """Return the runtimes to offer; of two images with one name the first one's wins."""
    runtimes: list[KernelRuntime] = []
    if use_docker:
        runtimes.append(
            DockerRuntime(
                agent_id=site.agent_id,
                cluster_id=site.cluster_id,
                url=settings.docker_url or None,
                network=settings.docker_network,
                session_subnets=settings.session_subnets,
                overlay_mtu=settings.overlay_mtu,
                pids_limit=lambda: settings.pids_limit,
                call_timeout_s=lambda: settings.engine_timeout_s,
            )
        )
    if settings.runtime != "docker":
        runtimes.append(ProcessRuntime(site.process_dir))
    return runtimes
