"""What users may ask of compute sessions: decide, write the rows, wake who acts, leave."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.domain.members import OVER
from backendai_jupyter.domain.records import (
    EVERYTHING,
    SYSTEM,
    ComputeSession,
    NewSession,
    Selection,
    Step,
    Viewer,
)
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import Connection, ExitReason
from backendai_jupyter.errors import (
    BackendError,
    Cancelled,
    Conflict,
    InDoubt,
    LaunchFailed,
    LostRace,
    NotFound,
    TimedOut,
    Unavailable,
)
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.manager.members import Members
from backendai_jupyter.manager.requests import Request, Requests, waiting_of
from backendai_jupyter.manager.scheduler.scheduler import Scheduler
from backendai_jupyter.manager.scheduler.snapshot import Decision, Waiting
from backendai_jupyter.points import reached
from backendai_jupyter.store.sessions import SessionStore

_LOG_TIMEOUT_S = 5.0
_SIGNAL_TIMEOUT_S = 3.0
_ENDED_BY_SOMEBODY = {Status.TERMINATING, Status.TERMINATED, Status.CANCELLED}
_KERNEL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Plan = Callable[[NewSession], NewSession]


class Sessions:
    """Every method takes the viewer, and answers ``NotFound`` for what he may not see."""

    def __init__(
        self,
        cluster_id: str,
        *,
        store: SessionStore,
        members: Members,
        requests: Requests,
        scheduler: Scheduler,
        board: Board,
        live: LiveStore,
        enqueued: Callable[[], None],
        changed: Callable[[], None],
        trouble: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._cluster_id = cluster_id
        self._store = store
        self._members = members
        self._requests = requests
        self._scheduler = scheduler
        self._board = board
        self._live = live
        self._enqueued = enqueued
        self._changed = changed
        self._trouble = trouble  # why nothing could start now; empty while all is well
        self._now = now
        self._in_doubt: set[str] = set()  # sessions that may exist, and nobody waits for

    async def enqueue(
        self, request: Request, viewer: Viewer, *, plan: Plan = lambda new: new
    ) -> ComputeSession:
        """Accept a request, as ``plan`` completes it: it is ``PENDING`` when this returns.

        Raises ``InvalidInput`` naming the field, ``NeverFits`` naming the slot,
        ``NotFound`` for an image that no agent has or can fetch, or ``Unavailable`` naming a
        store of the cluster that is away; then nothing was written.
        """
        if trouble := self._trouble():
            raise Unavailable(f"No kernel can start now, and those that run go on: {trouble}.")
        new = plan(await self._requests.admit(request, viewer))
        session = await self._create(new, request.kernel_id)
        await reached("manager.session.written")
        await self._board.post([Notice.of(session, kernel) for kernel in session.kernels])
        self._enqueued()
        return session

    async def try_out(
        self, request: Request, viewer: Viewer, *, plan: Plan = lambda new: new
    ) -> Decision:
        """Say what would become of a request now, without making it; raises as ``enqueue``."""
        new = plan(await self._requests.admit(request, viewer))
        return await self._scheduler.try_out(waiting_of(new, now=self._now()))

    async def outlook(self) -> Mapping[str, Waiting]:
        """Return, by id, where the sessions that wait stand in their queues."""
        return await self._scheduler.outlook()

    async def until_running(self, kernel_id: str, *, generation: int = 1) -> Connection:
        """Wait until the kernel answers and return how to reach it.

        Raises ``LaunchFailed`` with the step and the reason when it cannot start, ``TimedOut``
        when a phase took longer than it may, ``Cancelled`` when its end was asked for.
        """

        def settled(notice: Notice) -> bool:
            if notice.generation < generation:
                return False
            return notice.running or notice.status in FINAL or notice.exit_code is not None

        notice = await self._board.until(kernel_id, settled, timeout_s=None)
        if notice.running and notice.connection is not None:
            return notice.connection
        raise _why_not(notice)

    async def restart(self, kernel_id: str, viewer: Viewer, *, generation: int) -> int:
        """Ask for a new program in the place of ``generation``; returns the new generation.

        Raises ``LostRace`` where another manager has just done it.
        """
        raised = await self._store.restart(
            kernel_id, viewer, generation=generation, by=viewer.user_id, now=self._now()
        )
        await reached("manager.generation.raised")
        self._changed()
        return raised

    async def until_restarted(self, kernel_id: str, *, after: int) -> tuple[int, Connection]:
        """Wait for what another manager makes of a kernel in the place of generation ``after``.

        Returns the generation that has answered, whether or not it still runs; else raises
        what ``until_running`` does.
        """

        def settled(notice: Notice) -> bool:
            if notice.generation <= after:
                return notice.status in OVER
            return notice.running or notice.status in OVER or notice.exit_code is not None

        self._changed()  # this manager may not have heard of it
        notice = await self._board.until(kernel_id, settled, timeout_s=None)
        if notice.connection is None or notice.status in OVER:
            raise _why_not(notice)
        return notice.generation, notice.connection

    async def signal(self, kernel_id: str, signum: int, viewer: Viewer) -> None:
        """Deliver a signal to the kernel program.

        Returns when it was delivered, so that what is sent to the kernel next is not hit
        by it; gives up quietly after a while, because the program may be gone.
        """
        seq = await self._store.request_signal(kernel_id, signum, viewer)
        await reached("manager.signal.written")
        self._changed()

        def over(notice: Notice) -> bool:
            return notice.signal_seq >= seq or notice.exit_code is not None

        with contextlib.suppress(TimedOut):
            await self._board.until(kernel_id, over, timeout_s=_SIGNAL_TIMEOUT_S)

    async def terminate(self, session_id: str, viewer: Viewer, *, reason: str) -> None:
        """Ask for a session to end; returns at once.  Ending an ended one succeeds."""
        await self._store.terminate(
            session_id, viewer, reason=reason, by=viewer.user_id, now=self._now()
        )
        await reached("manager.terminating.written")
        self._changed()

    async def terminate_kernel(self, kernel_id: str, viewer: Viewer, *, reason: str) -> None:
        """Ask for one kernel to end; its session's failure policy says what of the others."""
        await self._members.end(kernel_id, viewer, reason=reason)
        self._changed()

    async def end_doubtful(self) -> None:
        """End the sessions whose start was refused without knowing that they do not exist."""
        for session_id in tuple(self._in_doubt):
            with contextlib.suppress(NotFound):
                await self.terminate(session_id, SYSTEM, reason="Its start was not confirmed.")
            self._in_doubt.discard(session_id)

    async def until_gone(self, *kernel_ids: str, timeout_s: float) -> None:
        """Wait until nothing of the kernels is left on their agents."""

        def is_gone(notice: Notice) -> bool:
            return notice.status in FINAL

        waiting = (self._board.until(k, is_gone, timeout_s=timeout_s) for k in kernel_ids)
        await asyncio.gather(*waiting)

    async def get(self, session_id: str, viewer: Viewer) -> ComputeSession:
        return await self._store.get(session_id, viewer)

    async def list(
        self, viewer: Viewer, wanted: Selection = EVERYTHING
    ) -> tuple[ComputeSession, ...]:
        return await self._store.list(viewer, wanted)

    async def history(self, session_id: str, viewer: Viewer) -> tuple[Step, ...]:
        return await self._store.history(session_id, viewer)

    async def logs(self, session_id: str, viewer: Viewer, *, host: str = "main1") -> str:
        """Return the end of what a kernel wrote to its stdout and stderr."""
        session = await self._store.get(session_id, viewer)
        kernel = session.kernel(host)
        if session.cluster_id != self._cluster_id and kernel.status not in FINAL:
            raise Conflict(
                "Another program on this machine runs this session; "
                f"read its log with 'jupyter backendai session logs {session_id}'."
            )
        if kernel.exit is not None and kernel.status in FINAL:
            return kernel.exit.log_tail
        if kernel.agent_id is None or kernel.agent_id not in self._board.reports:
            return ""
        async with self._live.subscribe(keys.log_hints(kernel.id)) as told:
            await self._live.publish(keys.log_requests(kernel.agent_id), kernel.id)
            try:
                async with asyncio.timeout(_LOG_TIMEOUT_S):
                    await anext(told)
            except TimeoutError:
                raise TimedOut(f"Agent {kernel.agent_id} did not send the log in time.") from None
        return await self._live.get(keys.log(kernel.id)) or ""

    async def _create(self, new: NewSession, wish: str | None) -> ComputeSession:
        """Write the rows under the id that is wished for, unless it was used before."""
        if wish is not None and _KERNEL_ID.fullmatch(wish):
            try:
                return await self._write(replace(new, id=wish, kernel_id=wish))
            except LostRace:  # over a folder; another id would not help
                raise
            except Conflict:
                pass
        fresh = str(uuid.uuid4())
        return await self._write(replace(new, id=fresh, kernel_id=fresh))

    async def _write(self, new: NewSession) -> ComputeSession:
        try:
            return await self._store.create(new, now=self._now())
        except InDoubt:
            self._in_doubt.add(new.id)
            raise


def _why_not(notice: Notice) -> BackendError:
    """Return what to tell whoever waited for a kernel that does not come."""
    ending = notice.exit
    if ending is not None and ending.reason is ExitReason.TIMED_OUT:
        return TimedOut(ending.message)
    if ending is not None and not notice.session_up and ending.message == notice.reason:
        return LaunchFailed(ending.step or "start", ending.message, cause=ending.cause)
    if notice.status in _ENDED_BY_SOMEBODY:
        return Cancelled("Its end was asked for while it started.")
    step = ending.step if ending else ""
    cause = ending.cause if ending else ""
    message = notice.reason or f"The kernel is {notice.status}."
    return LaunchFailed(step or "start", message, cause=cause)
