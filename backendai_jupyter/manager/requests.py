"""From what is asked for to the session that it is for: options, limits, folders, environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.domain.cluster import SUB, FailurePolicy
from backendai_jupyter.domain.groups import DEFAULT_GROUP
from backendai_jupyter.domain.images import missing, strictest
from backendai_jupyter.domain.members import members
from backendai_jupyter.domain.mounts import HOME
from backendai_jupyter.domain.options import Options, merge
from backendai_jupyter.domain.records import NewSession, Viewer, WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Slots, size_for_people
from backendai_jupyter.domain.wire import ClusterMode, Mount
from backendai_jupyter.errors import InvalidInput, NotFound
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.dependents import Dependents
from backendai_jupyter.manager.scheduler.explain import check_can_ever_fit
from backendai_jupyter.manager.scheduler.scheduler import Scheduler
from backendai_jupyter.manager.scheduler.snapshot import Candidate
from backendai_jupyter.manager.vfolders import (
    VFolders,
    kernel_path_of,
    workdir_of,
    workdir_of_host,
)
from backendai_jupyter.store.presets import PresetStore

MINIMUM = Slots({"cpu": Decimal("0.001"), "mem": 64 * 1024**2})
DEFAULT_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a session.

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


class Requests:
    """Knows what may be asked for; writes nothing."""

    def __init__(
        self,
        cluster_id: str,
        *,
        presets: PresetStore,
        vfolders: VFolders,
        dependents: Dependents,
        scheduler: Scheduler,
        board: Board,
        max_cluster_size: Callable[[], int],
    ) -> None:
        self._cluster_id = cluster_id
        self._presets = presets
        self._vfolders = vfolders
        self._dependents = dependents
        self._scheduler = scheduler
        self._board = board
        self._max_cluster_size = max_cluster_size

    async def admit(self, request: Request, viewer: Viewer) -> NewSession:
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
        size, mode = self._size(options, candidates)
        if mode is ClusterMode.SINGLE_NODE:
            check_can_ever_fit(candidates, _times(slots, size), size)
        else:
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
            shm_bytes=_shm(options, slots),
            workdir=workdir,
            priority=DEFAULT_PRIORITY if options.priority is None else options.priority,
            resource_group=group,
            not_before=options.not_before.timestamp() if options.not_before else 0.0,
            parents=await self._dependents.find(options.depends_on or (), viewer),
            jupyter_kernel_id=request.kernel_id if request.for_server else None,
            cluster_size=size,
            cluster_mode=mode,
            failure_policy=options.failure_policy or FailurePolicy.END,
            startup=self._startup(options, size),
        )

    def _size(self, options: Options, candidates: Sequence[Candidate]) -> tuple[int, ClusterMode]:
        """Return how many kernels there are to be, and where."""
        size, most = options.cluster_size or 1, self._max_cluster_size()
        if size > most:
            problem = f"a session has at most {most} kernels here"
            raise InvalidInput("backendai.cluster_size", problem)
        mode = options.cluster_mode or ClusterMode.SINGLE_NODE
        if size > 1 and candidates and not any(mode in c.modes for c in candidates):
            problem = f"no agent of the group runs {mode.value} sessions of several kernels"
            raise InvalidInput("backendai.cluster_mode", problem)
        return size, mode

    def _startup(self, options: Options, size: int) -> dict[str, tuple[str, ...]]:
        startup = options.startup or {}
        if SUB in startup and size == 1:
            problem = "a session of one kernel has no such role; ask for a larger cluster_size"
            raise InvalidInput(f"backendai.startup.{SUB}", problem)
        return startup

    async def _slots(self, request: Request, options: Options) -> Slots:
        wanted = options.resources
        if options.preset is not None:
            wanted = wanted.over(await self._preset(options.preset))
        slots = wanted.over(request.defaults.resources)
        _check_minimum(slots, MINIMUM, "a kernel")
        named = (i for r in self._board.reports.values() for i in r.offered)
        least = strictest(image for image in named if image.name == request.image)
        _check_minimum(slots, least, f"a kernel of the image {request.image!r}")
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


def waiting_of(new: NewSession, *, now: float) -> WaitingSession:
    """Return what the scheduler would see of a session, with hostnames in place of ids."""
    hosts = frozenset(mount.vfolder_host for mount in new.mounts) - {""}
    wanted = new.slots.to_amounts()
    return WaitingSession(
        id="",
        owner=new.owner,
        group=new.resource_group,
        priority=new.priority,
        created_at=now,
        kernels=tuple(
            WaitingKernel(f"{role}{idx}", new.image, wanted, hosts)
            for role, idx in members(new.cluster_size)
        ),
        not_before=new.not_before,
        mode=new.cluster_mode,
        name=new.name,
        parents=tuple(parent for parent in new.parents if not parent.is_met),
    )


def _times(slots: Slots, count: int) -> Slots:
    return Slots({slot: amount * count for slot, amount in slots.items()})


def _shm(options: Options, slots: Slots) -> int:
    """Return how much memory may be shared; it is a part of the kernel's, never all of it."""
    size = options.shm or 0
    if size >= slots["mem"]:
        memory = size_for_people(int(slots["mem"]))
        problem = f"{size_for_people(size)} is not less than the kernel's memory, {memory}"
        raise InvalidInput("backendai.shm", problem)
    return size


def _check_minimum(slots: Slots, least: Slots, what: str) -> None:
    for slot, amount in missing(slots, least).items():
        problem = f"{what} needs at least {Slots({slot: amount}).for_people()}"
        raise InvalidInput(f"backendai.resources.{slot}", problem)


def _session_name(request: Request, mounts: Sequence[Mount]) -> dict[str, str]:
    """Return the variable by which programs in a kernel know their notebook's path."""
    if request.notebook is None:
        return {}
    path = kernel_path_of(request.notebook, mounts) or str(HOME / request.notebook.lstrip("/"))
    return {"JPY_SESSION_NAME": path}
