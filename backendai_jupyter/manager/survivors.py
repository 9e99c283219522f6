"""The kernels that outlived the manager before this one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Kernel
from backendai_jupyter.domain.states import ASSIGNED, FINAL, Status
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import TimedOut
from backendai_jupyter.manager.board import Notice
from backendai_jupyter.manager.manager import Manager

log = logging.getLogger(__name__)

_NEVER_STARTED = "Its server ended before the kernel had started."


@dataclass(frozen=True, slots=True)
class Survivor:
    """A kernel that can be reached, whether its program runs or has ended."""

    session: ComputeSession
    kernel: Kernel
    connection: Connection

    @property
    def name(self) -> str:
        """What Jupyter calls the kernel."""
        return self.session.name_of(self.kernel) or self.kernel.id


async def survivors(manager: Manager, *, timeout_s: float) -> list[Survivor]:
    """Return what the former manager's users still have, oldest first.

    Starts that were under way are given up, since whoever waited for them is gone.  A kernel
    of which its agent says nothing within ``timeout_s`` is left out, and said so in the log.
    """
    found = []
    for session in await manager.live():
        if session.batch is not None:
            continue  # it goes on by itself, and waits by itself
        up = [(session, kernel) for kernel in session.kernels if was_up(session, kernel)]
        found += up
        if not up and session.status is not Status.TERMINATING:
            await manager.sessions.terminate(session.id, SYSTEM, reason=_NEVER_STARTED)
    reached = await asyncio.gather(*(_reach(manager, *one, timeout_s) for one in found))
    return [survivor for survivor in reached if survivor is not None]


async def _reach(
    manager: Manager, session: ComputeSession, kernel: Kernel, timeout_s: float
) -> Survivor | None:
    def settled(notice: Notice) -> bool:
        return notice.connection is not None or notice.status in FINAL

    try:
        notice = await manager.board.until(kernel.id, settled, timeout_s=timeout_s)
    except TimedOut as error:
        log.error("A kernel of the former server is not there yet: %s", error)
        return None
    return None if notice.connection is None else Survivor(session, kernel, notice.connection)


def was_up(session: ComputeSession, kernel: Kernel) -> bool:
    """Whether a kernel has answered once, as all of its session, and was not asked to end."""
    if kernel.status not in ASSIGNED or not session.is_up:
        return False
    known = kernel.status in (Status.RUNNING, Status.RESTARTING) or kernel.generation > 1
    return known or len(session.kernels) > 1
