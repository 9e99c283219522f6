"""The embedded parts of a backend: a manager and an agent that meet in memory."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.equipment import Equipment, Site, wants_docker
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAI, BackendAIAgent
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
from backendai_jupyter.provisioning.parts import make_manager
from backendai_jupyter.provisioning.reap import end_sessions, reap
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.storage.private import lasting_secret
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.hosts import VFolderHostStore
from backendai_jupyter.store.migrate import make_ready
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)


class Embedded:
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
        use_docker = await wants_docker(self._agent_settings)
        instance = self._open_instance(use_docker)
        reaper = [sys.executable, "-m", reap.__module__, str(instance.path)]
        equipment = Equipment(
            self._agent_settings,
            _site_of(instance.facts),
            use_docker=use_docker,
            leaves_kernels=self._keeps_kernels,
            orphan_command=None if self._keeps_kernels else reaper,
        )
        self._undo.append(equipment.close)
        await reached("server.instance.opened")
        await asyncio.gather(self._open_storage(hosts), equipment.open())
        cluster, live = MemoryClusterStore(), MemoryLiveStore()
        # It lasts, as kernels may: members of a session still know each other after a restart.
        secret = lasting_secret(self._data_dir / "secret")
        sealer = Sealer.from_file(str(secret), field="BackendAI.data_dir")
        self._agent = equipment.agent(
            cluster=cluster,
            live=live,
            sealer=sealer,
            supervisor=self._supervisor,
            hosts=self._agent_settings.hosts() or hosts,
        )
        self._undo.append(self._supervisor.close)
        self._manager = make_manager(
            instance.facts.cluster_id,
            self._settings,
            self._agent_settings,
            database=self._database,
            cluster=cluster,
            live=live,
            sealer=sealer,
            supervisor=self._supervisor,
            hosts=hosts,
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

    async def _open_storage(self, hosts: Mapping[str, VFolderHost]) -> None:
        await self._open_database()
        store = VFolderHostStore(self._database)
        await prepare_hosts(store, hosts, needed=self._settings.default_vfolder_host)

    async def _open_database(self) -> None:
        url = self._settings.database_url
        await make_ready(url)
        self._database = await Database.open(url)
        self._undo.append(self._database.close)

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


def _site_of(facts: Facts) -> Site:
    run_root, scratch_root = Path(facts.run_root), Path(facts.scratch_root)
    return Site(facts.agent_id, facts.cluster_id, run_root, scratch_root)


def agent_id() -> str:
    """All embedded backends of a machine share one agent row, hence its capacity."""
    return f"local-{platform.node() or 'host'}"


def _make_private(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(data_dir, os.W_OK):
        raise Unavailable(f"{data_dir} is not writable; set BackendAI.data_dir to one that is.")
