"""The parts of a backend in a cluster: one manager among others; agents are elsewhere."""

from __future__ import annotations

import logging
import platform
import uuid
from contextlib import AsyncExitStack

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.leadership import Leadership
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.cluster.shared_config import SharedConfig, manager_scopes
from backendai_jupyter.cluster.stores import open_stores
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.vfolders import prepare_hosts
from backendai_jupyter.provisioning.parts import make_manager
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.hosts import VFolderHostStore
from backendai_jupyter.store.migrate import make_ready
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)


class Clustered:
    """A manager over shared stores.  Its kernels go on when it stops; other managers see them."""

    def __init__(self, settings: BackendAI, agent_settings: BackendAIAgent) -> None:
        self._settings = settings
        self._agent_settings = agent_settings
        self._opened = AsyncExitStack()

    async def open(self) -> Manager:
        settings = self._settings
        if settings.end_kernels_with_server:
            raise InvalidInput(
                "BackendAI.end_kernels_with_server", "in a cluster kernels belong to no one server"
            )
        secret = settings.cluster_secret_file
        sealer = Sealer.from_file(secret, field="BackendAI.cluster_secret_file")
        hosts = settings.hosts()
        cluster, live = await self._opened.enter_async_context(
            open_stores(settings.etcd_url, settings.redis_url)
        )
        shared = SharedConfig(cluster, settings, manager_scopes())
        await shared.read()
        await make_ready(settings.database_url)
        database = await Database.open(settings.database_url)
        self._opened.push_async_callback(database.close)
        await prepare_hosts(VFolderHostStore(database), hosts, needed=settings.default_vfolder_host)
        supervisor = Supervisor()
        self._opened.push_async_callback(supervisor.close)
        leadership = Leadership(
            cluster,
            keys.LEADER,
            _unique_name(),
            able=lambda: manager.is_able(),
            on_change=lambda: manager.leadership_changed(),
        )
        manager = make_manager(
            keys.CLUSTER_ID,
            settings,
            self._agent_settings,
            database=database,
            cluster=cluster,
            live=live,
            sealer=sealer,
            supervisor=supervisor,
            hosts=hosts,
            leads=lambda: leadership.is_leader,
        )
        await manager.start()
        supervisor.task("leadership", leadership.run())
        supervisor.task("shared configuration", shared.follow(manager.settings_changed))
        return manager

    async def close(self) -> None:
        await self._opened.aclose()


def _unique_name() -> str:
    return f"{platform.node() or 'manager'}-{uuid.uuid4().hex[:8]}"
