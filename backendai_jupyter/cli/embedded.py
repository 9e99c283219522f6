"""What only a whole backend knows: its agents and images, and the logs of kernels that run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from traitlets.config import Config

from backendai_jupyter.agent.launch import LOG_TAIL_BYTES
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.kernel_dir import KernelDir
from backendai_jupyter.errors import Conflict
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.instance import facts_of
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.models import (
    Agent,
    AgentList,
    Wanted,
)
from backendai_jupyter.web.queries import drain_agent, read_agent, read_agents, read_images

_GONE_TIMEOUT_S = 30.0
_MEASURED = Wanted(statistics=True)


async def agents(config: Config) -> AgentList:
    async with _backend(config) as backend:
        return await backend.call(read_agents(backend.manager, _MEASURED))


async def agent(config: Config, agent_id: str) -> Agent:
    async with _backend(config) as backend:
        return await backend.call(read_agent(backend.manager, agent_id, _MEASURED))


async def drain(config: Config, agent_id: str, *, is_drained: bool) -> Agent:
    async with _backend(config) as backend:
        return await backend.call(drain_agent(backend.manager, agent_id, is_drained=is_drained))


async def images(config: Config) -> ImageList:
    async with _backend(config) as backend:
        return await backend.call(read_images(backend.manager))


async def end(config: Config, session_id: str) -> None:
    """Carry out the end of a session of the server, which does not run."""
    try:
        async with _backend(config, serving=True) as backend:
            ended = backend.manager.sessions.until_gone(session_id, timeout_s=_GONE_TIMEOUT_S)
            await backend.call(ended)
    except Conflict:
        return  # a server has just started, and does it


async def read_log(data_dir: Path, cluster_id: str, kernel_id: str) -> str:
    """Return the end of the log of a kernel that another process of this machine runs."""
    facts = await asyncio.to_thread(facts_of, data_dir, cluster_id)
    if facts is None:
        return ""
    directory = await asyncio.to_thread(KernelDir.read, facts.process_dir / kernel_id)
    if directory is not None:
        tail = await asyncio.to_thread(directory.log_tail, LOG_TAIL_BYTES)
        return tail.decode(errors="replace")
    if facts.docker_url is None:
        return ""
    runtime = DockerRuntime(
        agent_id=facts.agent_id, cluster_id=facts.cluster_id, url=facts.docker_url or None
    )
    await runtime.open()
    try:
        return await runtime.log_tail(kernel_id, max_bytes=LOG_TAIL_BYTES)
    finally:
        await runtime.close()


@asynccontextmanager
async def _backend(config: Config, *, serving: bool = False) -> AsyncIterator[Backend]:
    backend = Backend(config, serving=serving)
    await asyncio.to_thread(backend.start)
    try:
        yield backend
    finally:
        await asyncio.to_thread(backend.stop)
