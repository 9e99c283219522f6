"""The kernels that every server of a cluster shows, whichever of them has started them."""

from __future__ import annotations

from dataclasses import dataclass

from backendai_jupyter.domain.records import ComputeSession, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.survivors import Survivor, was_up


@dataclass(frozen=True, slots=True)
class Shared:
    """What there is at one moment, by the ids that Jupyter has given: no kernel is in both."""

    reachable: dict[str, Survivor]
    starting: dict[str, ComputeSession]  # or not reachable now, as without its agent


async def shared(manager: Manager, viewer: Viewer, *, kernel_id: str | None = None) -> Shared:
    """Return the viewer's kernels, or the one that Jupyter calls ``kernel_id``, as the rows say.

    What no server has asked for, a batch run's, is not among them.
    """
    sessions = {
        session.jupyter_kernel_id: session
        for session in await manager.live(viewer, jupyter_kernel_id=kernel_id)
        if session.jupyter_kernel_id and session.status is not Status.TERMINATING
    }
    if any(was_up(one) and _reached(manager, one) is None for one in sessions.values()):
        await manager.observe()  # another manager has heard of it before this one
    reachable = {
        name: survivor
        for name, one in sessions.items()
        if was_up(one) and (survivor := _reached(manager, one)) is not None
    }
    starting = {name: one for name, one in sessions.items() if name not in reachable}
    return Shared(reachable, starting)


def _reached(manager: Manager, session: ComputeSession) -> Survivor | None:
    notice = manager.board.get(session.main.id)
    if notice is None or notice.connection is None:
        return None
    return Survivor(session, notice.connection)
