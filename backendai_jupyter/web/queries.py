"""Questions that need more than one part of the manager; run them on its event loop."""

from __future__ import annotations

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.web.models import (
    Agent,
    AgentList,
    ImageList,
    SessionDetail,
    agents_of,
    detail_of,
    images_of,
    with_progress,
)


async def read_agents(manager: Manager) -> AgentList:
    return agents_of(await manager.agents.list(), manager.board.reports, manager.board.refusals)


async def drain_agent(manager: Manager, agent_id: str, *, is_drained: bool) -> Agent:
    await manager.drain(agent_id, is_drained=is_drained)
    known = [await manager.agents.get(agent_id)]
    return agents_of(known, manager.board.reports, manager.board.refusals).root[0]


async def read_images(manager: Manager) -> ImageList:
    return images_of(manager.board.reports)


async def read_session(manager: Manager, session_id: str, viewer: Viewer) -> SessionDetail:
    session = await manager.sessions.get(session_id, viewer)
    detail = detail_of(session, await manager.sessions.history(session_id, viewer))
    notices = (manager.board.get(kernel.id) for kernel in session.kernels)
    return with_progress(detail, [notice for notice in notices if notice is not None])
