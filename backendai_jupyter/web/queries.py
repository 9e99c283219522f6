"""Questions that need more than one part of the manager; run them on its event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from backendai_jupyter.domain import records
from backendai_jupyter.domain.records import ComputeSession, Viewer
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.scheduler.snapshot import Waiting
from backendai_jupyter.web.batch_models import progress_of
from backendai_jupyter.web.image_models import ImageList, images_of
from backendai_jupyter.web.models import (
    Agent,
    AgentList,
    Session,
    SessionDetail,
    SessionList,
    Wanted,
    agents_of,
    detail_of,
    session_of,
    with_progress,
)
from backendai_jupyter.web.relatives import relatives_of
from backendai_jupyter.web.session_filters import SessionFilter
from backendai_jupyter.web.statistics import agent_with, session_with

S = TypeVar("S", bound=Session)

_NOTHING_MORE = Wanted()


async def read_agents(manager: Manager, wanted: Wanted = _NOTHING_MORE) -> AgentList:
    found = _agents_of(manager, await manager.agents.list())
    if not wanted.statistics:
        return found
    readings = await manager.statistics.read(agent.id for agent in found.root)
    return AgentList([agent_with(readings, agent) for agent in found.root])


async def read_agent(manager: Manager, agent_id: str, wanted: Wanted) -> Agent:
    (found,) = _agents_of(manager, [await manager.agents.get(agent_id)]).root
    if not wanted.statistics:
        return found
    return agent_with(await manager.statistics.read([agent_id]), found)


async def drain_agent(manager: Manager, agent_id: str, *, is_drained: bool) -> Agent:
    await manager.drain(agent_id, is_drained=is_drained)
    return await read_agent(manager, agent_id, _NOTHING_MORE)


async def read_images(manager: Manager) -> ImageList:
    return images_of(manager.board.reports)


async def read_sessions(manager: Manager, viewer: Viewer, wanted: SessionFilter) -> SessionList:
    rows = await manager.sessions.list(viewer, wanted.selection())
    outlook = await _outlook(manager, rows)
    found = [_at_work(manager, session_of(session, outlook.get(session.id))) for session in rows]
    return SessionList(await _measured(manager, found) if wanted.statistics else found)


async def _outlook(manager: Manager, found: Sequence[ComputeSession]) -> Mapping[str, Waiting]:
    """Return where the sessions of this cluster that wait stand, if any of ``found`` does."""
    if not any(session.status is Status.PENDING for session in found):
        return {}
    return await manager.sessions.outlook()


async def read_session(
    manager: Manager, session_id: str, viewer: Viewer, wanted: Wanted = _NOTHING_MORE
) -> SessionDetail:
    session = await manager.sessions.get(session_id, viewer)
    history = await manager.sessions.history(session_id, viewer)
    waiting = (await _outlook(manager, [session])).get(session_id)
    detail = detail_of(session, history, waiting)
    parents, children = await manager.dependents.of(session_id, viewer)
    relatives = {"depends_on": relatives_of(parents), "dependents": relatives_of(children)}
    detail = detail.model_copy(update=relatives)
    notices = (manager.board.get(kernel.id) for kernel in session.kernels)
    detail = with_progress(detail, [notice for notice in notices if notice is not None])
    detail = _at_work(manager, detail)
    return (await _measured(manager, [detail]))[0] if wanted.statistics else detail


def _at_work(manager: Manager, session: S) -> S:
    """Return the same session; a batch whose notebook runs says how far it is."""
    batch, notice = session.batch, manager.board.get(session.kernels[0].id)
    if batch is None or batch.end is not None or notice is None or notice.progress is None:
        return session
    now = batch.model_copy(update={"progress": progress_of(notice.progress)})
    return session.model_copy(update={"batch": now})


async def _measured(manager: Manager, sessions: Sequence[S]) -> list[S]:
    """Return the same sessions with what their kernels use."""
    kernels = (kernel for session in sessions for kernel in session.kernels)
    agents = {k.agent_id for k in kernels if k.agent_id and k.status not in FINAL}
    readings = await manager.statistics.read(agents)
    return [session_with(readings, session) for session in sessions]


def _agents_of(manager: Manager, agents: Sequence[records.Agent]) -> AgentList:
    board = manager.board
    return agents_of(agents, board.reports, _sessions(manager), refusals=board.refusals)


def _sessions(manager: Manager) -> Callable[[str], str | None]:
    """Return what says to which session a kernel belongs, if it is one of the user's."""

    def session_id_of(kernel_id: str) -> str | None:
        notice = manager.board.get(kernel_id)
        is_own = notice is not None and manager.viewer.may_see(notice.owner)
        return notice.session_id if notice is not None and is_own else None

    return session_id_of
