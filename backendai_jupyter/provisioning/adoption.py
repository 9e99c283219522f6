"""Keep a server's kernels in step with the rows, whichever server of the cluster changes them.

Hints do it within milliseconds.  ``catch_up`` does it before a request is answered: behind a load
balancer the next request of a client, which knows a kernel, may come before the hint.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextvars import Context
from datetime import UTC, datetime
from typing import Any

from jupyter_server._tz import isoformat
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.errors import TimedOut, Unavailable
from backendai_jupyter.manager.board import Notice
from backendai_jupyter.manager.shared import Shared, Starting, shared
from backendai_jupyter.manager.survivors import Survivor
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.changes import Change
from backendai_jupyter.provisioning.glance import glance
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.provisioning.restore import request_of

MAIN_HOST = "main1"
_KNOWN_S, _UNKNOWN_S = 1.0, 5.0  # for the rows of what there is an answer for, or none

log = logging.getLogger(__name__)


class Adoption:
    """Of one server, be it alone or one of a cluster; it belongs to the server's loop.

    What the server itself starts or shuts down at the moment is left alone.
    """

    def __init__(self, backend: Backend, kernels: BackendAIMappingKernelManager) -> None:
        self._backend = backend
        self.is_shared = backend.settings.in_cluster  # other servers have these kernels, too
        self._kernels = kernels
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._starting: dict[str, Starting] = {}
        self._refused: set[str] = set()  # sessions that this server cannot manage

    def look(self, changes: Sequence[Change]) -> None:
        """Adopt what can be reached and is not known yet; drop what has ended."""
        for notice in (change.notice for change in changes):
            kernel_id = notice.jupyter_kernel_id
            if kernel_id is None:
                continue
            if not notice.starting:
                self._starting.pop(kernel_id, None)
            known = self._kernels_known().get(kernel_id) == notice.session_id
            if not self.is_shared and notice.hostname == MAIN_HOST:
                # This server itself has started it, or it was asked for without being waited for.
                if notice.running and not known and not self._is_ours_alone(kernel_id):
                    self._task(f"welcome {kernel_id}", self._welcome(kernel_id))
                continue
            if known and _is_over(notice):
                self._task(f"drop {kernel_id}", self._kernels.drop(kernel_id))
            elif not known and notice.running and not self._is_ours_alone(kernel_id):
                self._task(f"adopt {kernel_id}", self.catch_up(kernel_id))

    async def catch_up(self, kernel_id: str | None = None) -> None:
        """Know the kernel, or all kernels, as the rows have them at this moment.

        A server that is alone has started all main kernels itself, and hears of the others.

        While they cannot be read, what is known must do; ``Unavailable`` if that is nothing.
        """
        if not self.is_shared and (kernel_id is None or kernel_id in self._kernels):
            return
        known = self._kernels_known()
        has_answer = kernel_id is None or kernel_id in self._kernels
        try:
            found = await self._read(kernel_id, within_s=_KNOWN_S if has_answer else _UNKNOWN_S)
        except Unavailable:
            if has_answer:
                return
            raise
        self._remember_starting(found, kernel_id)
        asked = known if kernel_id is None else {kernel_id} & known.keys()
        await self._drop_others(found, {name: known[name] for name in asked})
        await asyncio.gather(*(self._adopt(*one) for one in found.reachable.items()))

    def starting(self, besides: Collection[str]) -> list[dict[str, Any]]:
        """Return models of what was on its way up at the last ``catch_up``, but for these."""
        return [_model(name, one) for name, one in self._starting.items() if name not in besides]

    async def end_starting(self, kernel_id: str) -> bool:
        """Ask for the end of a kernel that is on its way up; False if it is not one."""
        one = self._starting.get(kernel_id)
        if one is None:
            return False
        manager = self._backend.manager
        ending = manager.sessions.terminate(
            one.session.id, manager.viewer, reason="Its owner shut it down."
        )
        await self._backend.call(ending)
        return True

    async def _read(self, kernel_id: str | None, *, within_s: float) -> Shared:
        manager = self._backend.manager
        try:
            async with asyncio.timeout(within_s):
                found = await self._backend.call(
                    shared(manager, manager.viewer, kernel_id=kernel_id)
                )
        except TimeoutError:
            raise TimedOut("The database does not say in time which kernels there are.") from None
        return found if self.is_shared else _without_mains(found)

    def _remember_starting(self, found: Shared, kernel_id: str | None) -> None:
        if kernel_id is None:
            self._starting.clear()
        else:
            self._starting.pop(kernel_id, None)
        self._starting.update(found.starting)

    async def _welcome(self, kernel_id: str) -> None:
        manager = self._backend.manager
        found = await self._backend.call(shared(manager, manager.viewer, kernel_id=kernel_id))
        await asyncio.gather(*(self._adopt(*one) for one in found.reachable.items()))

    async def _drop_others(self, found: Shared, known: dict[str, str]) -> None:
        """Drop what is known and has ended, and follow restarts of the rest."""
        for name, session_id in known.items():
            survivor = found.reachable.get(name)
            row = found.starting.get(name) if survivor is None else survivor
            if row is None or row.session.id != session_id:
                await self._kernels.drop(name)
            elif (provisioner := self._provisioner(name)) is not None:
                provisioner.follow(row.kernel.generation)

    async def _adopt(self, kernel_id: str, survivor: Survivor) -> None:
        if not self._may_adopt(kernel_id, survivor):
            return
        if kernel_id not in self._under_way:
            task = self._task(f"adopt {kernel_id}", self._register(kernel_id, survivor))
            self._under_way[kernel_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(kernel_id, None))
        await asyncio.wait([self._under_way[kernel_id]])

    async def _register(self, kernel_id: str, survivor: Survivor) -> None:
        seen = await asyncio.to_thread(glance, survivor.connection)
        notice = self._backend.manager.board.get(survivor.kernel.id)
        is_over = notice is None or _is_over(notice)
        if is_over or not self._may_adopt(kernel_id, survivor):
            return  # meanwhile
        request = request_of(survivor)
        try:
            await self._kernels.adopt(survivor, request, self._backend, state=seen.state)
        except Exception:  # because its kernelspec is not known here, say; the others go on
            self._refused.add(survivor.session.id)
            log.exception("kernel %s of another server is not shown here", kernel_id)

    def _may_adopt(self, kernel_id: str, survivor: Survivor) -> bool:
        is_taken = kernel_id in self._kernels or self._is_ours_alone(kernel_id)
        return not is_taken and survivor.session.id not in self._refused

    def _is_ours_alone(self, kernel_id: str) -> bool:
        """Whether this server is about to start or to end it."""
        return self._kernels.stopping or kernel_id in self._kernels._pending_kernels

    def _kernels_known(self) -> dict[str, str]:
        """Return the sessions of the kernels that this server has, unless it ends them now."""
        known = {}
        for kernel_id in self._kernels.list_kernel_ids():
            provisioner = self._provisioner(kernel_id)
            if provisioner is not None and not self._is_ours_alone(kernel_id):
                place = provisioner.place
                known[kernel_id] = place.session_id if place else ""
        return known

    def _provisioner(self, kernel_id: str) -> BackendAIProvisioner | None:
        provisioner = getattr(self._kernels._kernels.get(kernel_id), "provisioner", None)
        return provisioner if isinstance(provisioner, BackendAIProvisioner) else None

    def _task(self, name: str, work: Any) -> asyncio.Task[None]:
        """Run ``work`` in no request's context: what it starts would keep that for ever."""
        task: asyncio.Task[None] = Context().run(self._kernels.supervisor.task, name, work)
        return task


async def catch_up(kernels: MappingKernelManager, kernel_id: str | None = None) -> None:
    """Let a server know a kernel, or all, that another server has started or ended."""
    if isinstance(kernels, BackendAIMappingKernelManager):
        await kernels.catch_up(kernel_id)


def _without_mains(found: Shared) -> Shared:
    return Shared(
        {n: one for n, one in found.reachable.items() if one.kernel.hostname != MAIN_HOST},
        {n: one for n, one in found.starting.items() if one.kernel.hostname != MAIN_HOST},
    )


def _is_over(notice: Notice) -> bool:
    return notice.status in FINAL or notice.status is Status.TERMINATING


def _model(kernel_id: str, one: Starting) -> dict[str, Any]:
    """Return what Jupyter's REST API says of a kernel that is on its way up."""
    session = one.session
    model = {
        "id": kernel_id,
        "name": session.kernelspec,
        "last_activity": isoformat(datetime.fromtimestamp(session.created_at, UTC)),
        "execution_state": "starting",
        "connections": 0,
        "backendai": {"session_id": session.id, "hostname": one.kernel.hostname},
    }
    return {**model, "reason": session.status_reason} if session.status_reason else model
