"""What users may ask of compute sessions: decide, write the rows, wake who acts, leave."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.domain.groups import DEFAULT_GROUP
from backendai_jupyter.domain.images import missing, strictest
from backendai_jupyter.domain.mounts import HOME
from backendai_jupyter.domain.options import Options, merge
from backendai_jupyter.domain.records import (
    SYSTEM,
    ComputeSession,
    NewSession,
    Step,
    Viewer,
    WaitingKernel,
    WaitingSession,
)
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import Connection, ExitReason, Mount
from backendai_jupyter.errors import (
    BackendError,
    Cancelled,
    Conflict,
    InDoubt,
    InvalidInput,
    LaunchFailed,
    LostRace,
    NotFound,
    TimedOut,
    Unavailable,
)
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.manager.scheduler.explain import check_can_ever_fit
from backendai_jupyter.manager.scheduler.scheduler import Scheduler
from backendai_jupyter.manager.scheduler.snapshot import Decision, Waiting
from backendai_jupyter.manager.vfolders import (
    VFolders,
    kernel_path_of,
    workdir_of,
    workdir_of_host,
)
from backendai_jupyter.points import reached
from backendai_jupyter.store.presets import PresetStore
from backendai_jupyter.store.sessions import SessionStore

MINIMUM = Slots({"cpu": Decimal("0.001"), "mem": 64 * 1024**2})
DEFAULT_PRIORITY = 10
_LOG_TIMEOUT_S = 5.0
_SIGNAL_TIMEOUT_S = 3.0
_OVER = FINAL | {Status.TERMINATING}
_ENDED_BY_SOMEBODY = {Status.TERMINATING, Status.TERMINATED, Status.CANCELLED}
_KERNEL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a session of one kernel.

    ``layers`` are the options of metadata, environment and caller, weakest first, above
    the kernelspec's ``defaults``.  Of the places to work in, ``contents_path`` is a
    directory of the file browser and ``host_dir`` one of this machine.  ``notebook`` is the
    contents path of the notebook that the kernel is for.
    """

    kernelspec: str
    image: str
    argv: tuple[str, ...]
    defaults: Options
    layers: Sequence[Options] = ()
    env: dict[str, str] = field(default_factory=dict)
    contents_path: str | None = None
    host_dir: Path | None = None
    notebook: str | None = None
    kernel_id: str | None = None  # wish; ignored if it was used before
    for_server: bool = False  # else no server shows it: who asked ends it
    name: str = ""


class Sessions:
    """Every method takes the viewer, and answers ``NotFound`` for what he may not see."""

    def __init__(
        self,
        cluster_id: str,
        *,
        store: SessionStore,
        presets: PresetStore,
        vfolders: VFolders,
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
        self._presets = presets
        self._vfolders = vfolders
        self._scheduler = scheduler
        self._board = board
        self._live = live
        self._enqueued = enqueued
        self._changed = changed
        self._trouble = trouble  # why nothing could start now; empty while all is well
        self._now = now
        self._in_doubt: set[str] = set()  # sessions that may exist, and nobody waits for

    async def enqueue(self, request: Request, viewer: Viewer) -> ComputeSession:
        """Accept a request: it is ``PENDING`` when this returns.

        Raises ``InvalidInput`` naming the field, ``NeverFits`` naming the slot,
        ``NotFound`` for an image that no agent has or can fetch, or ``Unavailable`` naming a
        store of the cluster that is away; then nothing was written.
        """
        if trouble := self._trouble():
            raise Unavailable(f"No kernel can start now, and those that run go on: {trouble}.")
        session = await self._create(await self._admitted(request, viewer), request.kernel_id)
        await reached("manager.session.written")
        await self._board.post([Notice.of(session, session.main)])
        self._enqueued()
        return session

    async def try_out(self, request: Request, viewer: Viewer) -> Decision:
        """Say what would become of a request now, without making it; raises as ``enqueue``."""
        new = await self._admitted(request, viewer)
        hosts = frozenset(mount.vfolder_host for mount in new.mounts) - {""}
        kernel = WaitingKernel("main1", new.image, new.slots.to_amounts(), hosts)
        session = WaitingSession(
            id="",
            owner=new.owner,
            group=new.resource_group,
            priority=new.priority,
            created_at=self._now(),
            kernels=(kernel,),
            not_before=new.not_before,
        )
        return await self._scheduler.try_out(session)

    async def outlook(self) -> Mapping[str, Waiting]:
        """Return, by id, where the sessions that wait stand in their queues."""
        return await self._scheduler.outlook()

    async def _admitted(self, request: Request, viewer: Viewer) -> NewSession:
        """Return the session that a request is for, or raise why there can be none."""
        options = merge(request.layers)
        slots = await self._slots(request, options)
        group = self._group(options)
        candidates = [c for c in await self._scheduler.candidates() if c.group == group]
        if candidates and not any(c.can_have(request.image) for c in candidates):
            raise NotFound(
                f"No agent has the image {request.image!r}, or may fetch it. "
                f"Build it with 'jupyter backendai image build {request.image}'."
            )
        check_can_ever_fit(candidates, slots)
        mounts = await self._vfolders.mounts(viewer, options.mounts)
        workdir, mounts = await self._workdir(request, mounts, viewer)
        env = {**request.env, **_session_name(request, mounts)}
        env.update(merge([request.defaults, options]).env)
        return NewSession(
            id="",
            owner=viewer.user_id,
            name=request.name or request.kernelspec,
            cluster_id=self._cluster_id,
            kernelspec=request.kernelspec,
            image=request.image,
            argv=request.argv,
            env=env,
            slots=slots,
            mounts=mounts,
            shows_all=options.mounts is None,
            workdir=workdir,
            priority=DEFAULT_PRIORITY if options.priority is None else options.priority,
            resource_group=group,
            not_before=options.not_before.timestamp() if options.not_before else 0.0,
            jupyter_kernel_id=request.kernel_id if request.for_server else None,
        )

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
                return notice.status in _OVER
            return notice.running or notice.status in _OVER or notice.exit_code is not None

        self._changed()  # this manager may not have heard of it
        notice = await self._board.until(kernel_id, settled, timeout_s=None)
        if notice.connection is None or notice.status in _OVER:
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

    async def end_doubtful(self) -> None:
        """End the sessions whose start was refused without knowing that they do not exist."""
        for session_id in tuple(self._in_doubt):
            with contextlib.suppress(NotFound):
                await self.terminate(session_id, SYSTEM, reason="Its start was not confirmed.")
            self._in_doubt.discard(session_id)

    async def until_gone(self, kernel_id: str, *, timeout_s: float) -> None:
        """Wait until nothing of the kernel is left on its agent."""
        await self._board.until(kernel_id, lambda n: n.status in FINAL, timeout_s=timeout_s)

    async def get(self, session_id: str, viewer: Viewer) -> ComputeSession:
        return await self._store.get(session_id, viewer)

    async def list(
        self, viewer: Viewer, *, statuses: Sequence[Status] | None = None, limit: int | None = None
    ) -> tuple[ComputeSession, ...]:
        return await self._store.list(viewer, statuses=statuses, limit=limit)

    async def history(self, session_id: str, viewer: Viewer) -> tuple[Step, ...]:
        return await self._store.history(session_id, viewer)

    async def logs(self, session_id: str, viewer: Viewer) -> str:
        """Return the end of what the main kernel wrote to its stdout and stderr."""
        session = await self._store.get(session_id, viewer)
        kernel = session.main
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

    async def _slots(self, request: Request, options: Options) -> Slots:
        wanted = options.resources
        if options.preset is not None:
            wanted = wanted.over(await self._preset(options.preset))
        slots = wanted.over(request.defaults.resources)
        _check_minimum(slots, MINIMUM, "a kernel")
        named = (i for r in self._board.reports.values() for i in r.offered)
        least = strictest(image for image in named if image.name == request.image)
        _check_minimum(slots, least, f"a kernel of the image {request.image!r}")
        if (options.cluster_size or 1) != 1:
            raise InvalidInput("backendai.cluster_size", "only sessions of 1 kernel can be run yet")
        return slots

    def _group(self, options: Options) -> str:
        group = options.resource_group or DEFAULT_GROUP
        known = self._scheduler.groups()
        if group not in known:
            problem = f"there is no group {group!r}; known are {', '.join(known)}"
            raise InvalidInput("backendai.resource_group", problem)
        return group

    async def _workdir(
        self, request: Request, mounts: tuple[Mount, ...], viewer: Viewer
    ) -> tuple[str, tuple[Mount, ...]]:
        """Return where the kernel works, and its mounts with the one that this takes."""
        if request.contents_path is not None:
            return workdir_of(request.contents_path, mounts), mounts
        if request.host_dir is None:
            return str(HOME), mounts
        if workdir_of_host(request.host_dir, mounts) is None:
            # A batch run works where its command was given, as it would with a local kernel.
            extra = await self._vfolders.mount_of(request.host_dir, viewer, beside=mounts)
            mounts = (*mounts, extra)
        return workdir_of_host(request.host_dir, mounts) or str(HOME), mounts

    async def _preset(self, name: str) -> Slots:
        try:
            return (await self._presets.get(name)).slots
        except NotFound as error:
            raise InvalidInput("backendai.preset", str(error)) from None

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


def _check_minimum(slots: Slots, least: Slots, what: str) -> None:
    for slot, amount in missing(slots, least).items():
        problem = f"{what} needs at least {Slots({slot: amount}).for_people()}"
        raise InvalidInput(f"backendai.resources.{slot}", problem)


def _why_not(notice: Notice) -> BackendError:
    """Return what to tell whoever waited for a kernel that does not come."""
    ending = notice.exit
    if ending is not None and ending.reason is ExitReason.TIMED_OUT:
        return TimedOut(ending.message)
    if notice.status in _ENDED_BY_SOMEBODY:
        return Cancelled("Its end was asked for while it started.")
    step = ending.step if ending else ""
    cause = ending.cause if ending else ""
    message = notice.reason or f"The kernel is {notice.status}."
    return LaunchFailed(step or "start", message, cause=cause)


def _session_name(request: Request, mounts: Sequence[Mount]) -> dict[str, str]:
    """Return the variable by which programs in a kernel know their notebook's path."""
    if request.notebook is None:
        return {}
    path = kernel_path_of(request.notebook, mounts) or str(HOME / request.notebook.lstrip("/"))
    return {"JPY_SESSION_NAME": path}
