"""What every backend is made of, whether it is a machine of its own or one of many managers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.engine import Database
from backendai_jupyter.supervisor import Supervisor


class Parts(Protocol):
    """Opened in order and closed in reverse, also where ``open`` has failed half-way."""

    async def open(self) -> Manager: ...

    async def close(self) -> None: ...


def make_manager(
    cluster_id: str,
    settings: BackendAI,
    agent_settings: BackendAIAgent,
    *,
    database: Database,
    cluster: ClusterStore,
    live: LiveStore,
    sealer: Sealer,
    supervisor: Supervisor,
    hosts: Mapping[str, VFolderHost],
    leads: Callable[[], bool] = lambda: True,
) -> Manager:
    """Return a manager as the settings describe it."""
    return Manager(
        cluster_id,
        database=database,
        cluster=cluster,
        live=live,
        sealer=sealer,
        supervisor=supervisor,
        hosts=hosts,
        default_host=settings.default_vfolder_host,
        kernel_ids=kernel_identity(agent_settings.kernel_uid),
        settings=settings,
        leads=leads,
    )
