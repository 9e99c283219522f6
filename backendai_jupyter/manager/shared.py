"""The kernels that every server of a cluster shows, whichever of them has started them."""

from __future__ import annotations

from dataclasses import dataclass

from backendai_jupyter.domain.members import OVER
from backendai_jupyter.domain.records import ComputeSession, Kernel, Viewer
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.survivors import Survivor, was_up


@dataclass(frozen=True, slots=True)
class Starting:
    """A kernel that is on its way up, or that cannot be reached now, as without its agent."""

    session: ComputeSession
    kernel: Kernel


@dataclass(frozen=True, slots=True)
class Shared:
    """What there is at one moment, by the ids that Jupyter has given: no kernel is in both."""

    reachable: dict[str, Survivor]
    starting: dict[str, Starting]


async def shared(manager: Manager, viewer: Viewer, *, kernel_id: str | None = None) -> Shared:
    """Return the viewer's kernels, or the one that Jupyter calls ``kernel_id``, as the rows say.

    What no server has asked for, a batch run's, is not among them.
    """
    found = {
        name: Starting(session, kernel)
        for session in await manager.live(viewer, jupyter_kernel_id=kernel_id)
        for kernel in session.kernels
        if (name := session.name_of(kernel)) and kernel.status not in OVER
    }
    if kernel_id is not None:
        found = {name: one for name, one in found.items() if name == kernel_id}
    up = {name: one for name, one in found.items() if was_up(one.session, one.kernel)}
    if any(_reached(manager, one) is None for one in up.values()):
        await manager.observe()  # another manager has heard of it before this one
    reachable = {
        name: survivor
        for name, one in up.items()
        if (survivor := _reached(manager, one)) is not None
    }
    return Shared(reachable, {name: one for name, one in found.items() if name not in reachable})


def _reached(manager: Manager, one: Starting) -> Survivor | None:
    notice = manager.board.get(one.kernel.id)
    if notice is None or notice.connection is None:
        return None
    return Survivor(one.session, one.kernel, notice.connection)
