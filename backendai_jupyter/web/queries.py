"""Questions that need more than one part of the manager; run them on its event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backendai_jupyter.domain import records
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
    return _agents_of(manager, await manager.agents.list())


async def read_agent(manager: Manager, agent_id: str) -> Agent:
    (agent,) = _agents_of(manager, [await manager.agents.get(agent_id)]).root
    return agent


async def drain_agent(manager: Manager, agent_id: str, *, is_drained: bool) -> Agent:
    await manager.drain(agent_id, is_drained=is_drained)
    return await read_agent(manager, agent_id)


async def read_images(manager: Manager) -> ImageList:
    return images_of(manager.board.reports)


async def read_session(manager: Manager, session_id: str, viewer: Viewer) -> SessionDetail:
    session = await manager.sessions.get(session_id, viewer)
    detail = detail_of(session, await manager.sessions.history(session_id, viewer))
    notices = (manager.board.get(kernel.id) for kernel in session.kernels)
    return with_progress(detail, [notice for notice in notices if notice is not None])


def _agents_of(manager: Manager, agents: Sequence[records.Agent]) -> AgentList:
    board = manager.board
    return agents_of(agents, board.reports, _sessions(manager), refusals=board.refusals)


def _sessions(manager: Manager) -> Callable[[str], str | None]:
    """Return what says to which session a kernel belongs, if it is one of the user's."""

    def session_of(kernel_id: str) -> str | None:
        notice = manager.board.get(kernel_id)
        is_own = notice is not None and manager.viewer.may_see(notice.owner)
        return notice.session_id if notice is not None and is_own else None

    return session_of
