"""The embedded backend: a manager and an agent in this process, on an event loop of their own.

They have a thread to themselves because their users do not share a loop: the Jupyter Server
has one, nbclient makes another, and a synchronous ``KernelManager`` runs one only for the
length of each call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from traitlets.config import Config

from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.agent.node import Node, kernel_identity, measure_capacity
from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.probe import kernel_info
from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.docker_engine import find_engine
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.domain.resources import parse_size
from backendai_jupyter.errors import BackendError, TimedOut, Unavailable
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.vfolders import prepare_hosts
from backendai_jupyter.points import reached
from backendai_jupyter.provisioning.instance import (
    Facts,
    Instance,
    known_clusters,
    new_cluster_id,
)
from backendai_jupyter.provisioning.reap import end_sessions, reap
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.hosts import VFolderHostStore
from backendai_jupyter.store.migrate import make_ready
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)

T = TypeVar("T")

_START_TIMEOUT_S = 60.0
_STOP_MARGIN_S = 10.0  # for all that is not the end of kernels


class Backend:
    """A manager and an agent that meet in memory, over the database of this machine.

    ``start`` and ``stop`` block their caller; ``call`` may be awaited on any event loop.  A
    server's (``serving``) has the kernels of the server before it; any other ends its own.
    """

    def __init__(self, config: Config, *, serving: bool = False) -> None:
        self._serving = serving
        self.settings = BackendAI(config=config)
        self.agent_settings = BackendAIAgent(config=config)
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="backendai", daemon=True)
        self.manager: Manager

    def start(self) -> None:
        """Return when kernels can be started; raises what kept it from getting there."""
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise Unavailable("The embedded backend did not get ready in time; see the log.")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End all kernels, unless they outlive the server, and leave nothing else behind."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(self.settings.end_timeout_s + _STOP_MARGIN_S)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the backend's loop and return its result on the caller's."""
        if not self._thread.is_alive():
            work.close()
            raise Unavailable("The Backend.AI backend of this process has stopped.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    def call_blocking(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the backend's loop from a thread that has no loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:  # raised again by ``start``
            self._failure = error
            if self._ready.is_set():
                log.exception("the embedded backend failed")
        finally:
            self._ready.set()
            self._loop.close()

    async def _live(self) -> None:
        parts = _Parts(self.settings, self.agent_settings, serving=self._serving)
        try:
            self.manager = await parts.open()
            self._ready.set()
            await self._stopping.wait()
        finally:
            await parts.close()


class _Parts:
    """All that a backend is made of, opened in order and closed in reverse."""

    def __init__(
        self, settings: BackendAI, agent_settings: BackendAIAgent, *, serving: bool
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._keeps_kernels = serving and not settings.end_kernels_with_server
        self._is_empty = not serving  # of kernels, as far as is known
        self._agent_settings = agent_settings
        self._data_dir = Path(settings.data_dir)
        self._supervisor = Supervisor()
        self._undo: list[Callable[[], Awaitable[None]]] = []
        self._database: Database
        self._manager: Manager
        self._agent: Agent

    async def open(self) -> Manager:
        hosts = self._settings.hosts()
        use_docker = await self._wants_docker()
        instance = self._open_instance(use_docker)
        reaper = [sys.executable, "-m", reap.__module__, str(instance.path)]
        relay = RelayClient(
            instance.run_root / "relay",
            bind=self._agent_settings.relay_bind,
            orphan_command=None if self._keeps_kernels else reaper,
            on_lost=lambda: self._agent.relay_lost(),
        )
        self._undo.append(lambda: self._leave_relay(relay))
        runtimes = self._runtimes(instance, use_docker)
        await reached("server.instance.opened")
        await asyncio.gather(
            self._open_storage(hosts),
            relay.open(),
            *(self._open_runtime(r) for r in runtimes),
        )
        cluster, live, sealer = MemoryClusterStore(), MemoryLiveStore(), Sealer()
        self._agent = self._make_agent(instance, relay, runtimes, cluster, live, sealer)
        self._undo.append(self._supervisor.close)
        self._manager = Manager(
            instance.facts.cluster_id,
            database=self._database,
            cluster=cluster,
            live=live,
            sealer=sealer,
            supervisor=self._supervisor,
            hosts=hosts,
            default_host=self._settings.default_vfolder_host,
            kernel_ids=kernel_identity(self._agent_settings.kernel_uid),
            full_pass_s=self._settings.full_pass_s,
            restart_grace_s=self._settings.restart_grace_s,
            end_timeout_s=self._settings.end_timeout_s,
            start_limits=self._settings.start_limits(),
        )
        await self._manager.prepare()  # else the agent would find that nobody wants its kernels
        await reached("server.kernels.assigned")
        await self._agent.start()
        await self._manager.start()
        self._undo.append(self._part_with_kernels)
        await self._end_kernels()  # that a server before this one left and no other shall have
        self._supervisor.task("clear dead instances", self._clear_dead())
        return self._manager

    async def close(self) -> None:
        for undo in reversed(self._undo):
            try:
                await undo()
            except (BackendError, OSError) as error:
                log.warning("while closing: %s", error)

    async def _part_with_kernels(self) -> None:
        """End the kernels, also where that cannot be written down: the next backend does it."""
        try:
            await self._end_kernels()
            if self._is_empty:  # of what an engine that was down still has, it is not
                self._is_empty = await self._end_all()
        except TimedOut:
            raise
        except Unavailable as error:
            log.error("That kernels have ended is not written down: %s", error)
            if not self._keeps_kernels:
                await self._end_all()

    async def _end_all(self) -> bool:
        return await self._agent.stop_all(within_s=self._settings.end_timeout_s)

    async def _end_kernels(self) -> None:
        self._is_empty = False
        if not self._keeps_kernels:
            what = "server was stopped" if self._serving else "run has ended"
            await self._manager.end_all(reason=f"Its {what}.")
        self._is_empty = not await self._manager.live()

    async def _leave_relay(self, relay: RelayClient) -> None:
        """End the relay, unless there are kernels that go on."""
        await reached("server.relay.leave")
        await relay.close(stop=not self._keeps_kernels or not await relay.kernels())

    async def _wants_docker(self) -> bool:
        choice = self._agent_settings.runtime
        if choice == "process":
            return False
        found = await find_engine(self._agent_settings.docker_url or None)
        if choice == "docker" and not found:
            raise Unavailable(
                "BackendAIAgent.runtime is 'docker', but no Docker engine answers. "
                "Start it, or set BackendAIAgent.docker_url."
            )
        return found

    def _open_instance(self, use_docker: bool) -> Instance:
        cluster_id = new_cluster_id()
        _make_private(self._data_dir)
        facts = Facts(
            cluster_id=cluster_id,
            agent_id=agent_id(),
            database_url=self._settings.database_url,
            run_root=str(Path(self._settings.runtime_dir) / cluster_id[:8]),
            scratch_root=str(self._data_dir / "scratch" / cluster_id[:8]),
            docker_url=self._agent_settings.docker_url if use_docker else None,
        )
        choose = Instance.take_over if self._serving else Instance.create
        instance = choose(self._data_dir, facts)

        async def leave() -> None:
            await reached("server.instance.leave")
            await asyncio.to_thread(instance.remove if self._is_empty else instance.release)

        self._undo.append(leave)
        return instance

    def _runtimes(self, instance: Instance, use_docker: bool) -> list[KernelRuntime]:
        """Return the runtimes to offer; of two images with one name the first one's wins."""
        settings = self._agent_settings
        runtimes: list[KernelRuntime] = []
        if use_docker:
            runtimes.append(
                DockerRuntime(
                    agent_id=instance.facts.agent_id,
                    cluster_id=instance.facts.cluster_id,
                    url=settings.docker_url or None,
                    network=settings.docker_network,
                    pids_limit=settings.pids_limit,
                    call_timeout_s=settings.engine_timeout_s,
                )
            )
        if settings.runtime != "docker":
            runtimes.append(ProcessRuntime(instance.facts.process_dir))
        return runtimes

    async def _open_runtime(self, runtime: KernelRuntime) -> None:
        await runtime.open()
        self._undo.append(runtime.close)

    async def _open_storage(self, hosts: Mapping[str, VFolderHost]) -> None:
        await self._open_database()
        store = VFolderHostStore(self._database)
        await prepare_hosts(store, hosts, needed=self._settings.default_vfolder_host)

    async def _open_database(self) -> None:
        url = self._settings.database_url
        await make_ready(url)
        self._database = await Database.open(url)
        self._undo.append(self._database.close)

    def _make_agent(
        self,
        instance: Instance,
        relay: RelayClient,
        runtimes: list[KernelRuntime],
        cluster: MemoryClusterStore,
        live: MemoryLiveStore,
        sealer: Sealer,
    ) -> Agent:
        settings = self._agent_settings
        uid, gid = kernel_identity(settings.kernel_uid)
        tools = Tools(
            node=Node(instance.run_root, Path(instance.facts.scratch_root), uid, gid),
            runtimes={runtime.name: runtime for runtime in runtimes},
            relay=relay,
            ask=kernel_info,
            answer_timeout_s=settings.answer_timeout_s,
            stop_grace_s=settings.stop_grace_s,
            journal_bytes=parse_size(settings.journal_size),
        )
        return Agent(
            instance.facts.agent_id,
            capacity=measure_capacity(
                cpu_overcommit=settings.cpu_overcommit,
                mem_reserve_bytes=parse_size(settings.mem_reserve),
            ),
            cluster=cluster,
            live=live,
            sealer=sealer,
            tools=tools,
            supervisor=self._supervisor,
            heartbeat_s=settings.heartbeat_s,
            hosts=settings.hosts() or self._settings.hosts(),
        )

    async def _clear_dead(self) -> None:
        """Clear away what processes that died on this machine left behind."""
        for instance in await asyncio.to_thread(lambda: list(Instance.dead(self._data_dir))):
            await reap(instance)
        if self._database.is_shared:
            return  # a cluster that is unknown here may be another machine's
        store = SessionStore(self._database)
        known = await asyncio.to_thread(known_clusters, self._data_dir)
        for cluster_id in await store.clusters_in_use() - known:
            await end_sessions(store, cluster_id)


def agent_id() -> str:
    """All embedded backends of a machine share one agent row, hence its capacity."""
    return f"local-{platform.node() or 'host'}"


def _make_private(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(data_dir, os.W_OK):
        raise Unavailable(f"{data_dir} is not writable; set BackendAI.data_dir to one that is.")
