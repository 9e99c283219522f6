"""One node's agent as a process of its own: ``backendai-agent``."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from backendai_jupyter.agent.equipment import Equipment, Site, wants_docker
from backendai_jupyter.agent.home import open_home
from backendai_jupyter.agent.node import checkpoints_in
from backendai_jupyter.agent.registration import Registration
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.cluster.shared_config import SharedConfig, agent_scopes
from backendai_jupyter.cluster.stores import open_stores
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)


def check_without_docker(site: Site) -> None:
    """Raise ``Unavailable`` if kernels of this node are in an engine that does not answer.

    Who does not see them would take them for gone, and leave their containers for ever.
    """
    if any(
        one.image.runtime == DockerRuntime.name for one in checkpoints_in(site.scratch_root).all()
    ):
        raise Unavailable(
            "This node has kernels in containers, and no Docker engine answers. Start it, or "
            "set BackendAIAgent.docker_url."
        )


async def serve(settings: BackendAIAgent, stop: asyncio.Event) -> None:
    """Run the agent until ``stop`` is set; its kernels go on, and the next one has them.

    Raises ``InvalidInput``, ``Conflict`` or ``Unavailable`` where it cannot start.
    """
    settings.check_cluster()
    secret = settings.cluster_secret_file
    sealer = Sealer.from_file(secret, field="BackendAIAgent.cluster_secret_file")
    hosts = settings.hosts()
    async with AsyncExitStack() as stack:
        home = await asyncio.to_thread(open_home, settings)
        stack.callback(home.close)
        cluster, live = await stack.enter_async_context(
            open_stores(settings.etcd_url, settings.redis_url)
        )
        registration = Registration(cluster, settings.agent_id, home.node)
        await registration.check()
        shared = SharedConfig(cluster, settings, agent_scopes(settings))
        await shared.read()
        use_docker = await wants_docker(settings)
        if not use_docker:
            await asyncio.to_thread(check_without_docker, home.site)
        equipment = Equipment(settings, home.site, use_docker=use_docker, leaves_kernels=True)
        stack.push_async_callback(equipment.close)
        await equipment.open()
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.close)
        agent = equipment.agent(
            cluster=cluster,
            live=live,
            sealer=sealer,
            supervisor=supervisor,
            hosts=hosts,
            notes=shared.notes,
        )
        supervisor.task("registration", registration.run())
        await agent.start()
        supervisor.task("shared configuration", shared.follow(agent.settings_changed))
        log.info("agent %s is ready", settings.agent_id)
        await stop.wait()
        log.info("agent %s stops; its kernels go on", settings.agent_id)
