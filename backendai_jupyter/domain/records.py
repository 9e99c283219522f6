"""The records that the store returns: frozen copies of rows, safe to pass around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backendai_jupyter.domain.batch import Batch
from backendai_jupyter.domain.cluster import FailurePolicy
from backendai_jupyter.domain.groups import DEFAULT_GROUP
from backendai_jupyter.domain.resources import Amounts, Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.domain.wire import ClusterMode, Exit, Mount
from backendai_jupyter.errors import NotFound


@dataclass(frozen=True, slots=True)
class User:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Keypair:
    access_key: str
    secret_key: str = field(repr=False)
    user_id: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Viewer:
    """On whose behalf something is read or changed; every query takes one.

    The system itself (scheduler, observer, reconciler) reads with ``SYSTEM``.
    """

    user_id: str
    sees_everything: bool = False

    def may_see(self, owner: str) -> bool:
        return self.sees_everything or owner == self.user_id


SYSTEM = Viewer("system", sees_everything=True)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which sessions are looked for; what is None matters not."""

    statuses: frozenset[Status] = frozenset()  # empty: whatever
    resource_group: str | None = None
    owner: str | None = None
    name: str | None = None
    since: float | None = None  # asked for then, or later
    oldest_first: bool = False
    after: str | None = None  # the id of the last one of the page before
    limit: int | None = None


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Kernel:
    id: str
    session_id: str
    owner: str
    role: str  # ``main`` or ``sub``
    idx: int  # 1-based within the role
    status: Status
    status_reason: str  # a sentence; empty while all is well
    status_since: float  # seconds since the epoch, UTC
    agent_id: str | None
    generation: int
    signal_seq: int
    signal_num: int
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    slots: Slots
    mounts: tuple[Mount, ...]
    workdir: str
    exit: Exit | None
    shows_all: bool = False  # folders of its owner that are made later come to ``mounts``
    shm_bytes: int = 0  # of its memory that may be shared; 0: as much as its agent gives any

    @property
    def hostname(self) -> str:
        return f"{self.role}{self.idx}"


@dataclass(frozen=True, slots=True)
class ComputeSession:
    id: str
    owner: str
    name: str
    cluster_id: str  # the cluster store that carries its assignments
    kernelspec: str
    priority: int
    status: Status
    status_reason: str
    created_at: float
    ended_at: float | None
    kernels: tuple[Kernel, ...]  # main1 first
    jupyter_kernel_id: str | None = None  # what Jupyter calls the main kernel
    resource_group: str = DEFAULT_GROUP
    not_before: float = 0.0  # seconds since the epoch; 0 is at once
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    failure_policy: FailurePolicy = FailurePolicy.END
    startup: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # command of each role
    started_at: float | None = None  # when all kernels were up for the first time
    attempts: int = 0  # starts that were taken back
    failed_on: tuple[str, ...] = ()  # agents of these
    batch: Batch | None = None  # None: somebody connects to it
    retries_left: int = 0  # of a batch

    @property
    def main(self) -> Kernel:
        return self.kernels[0]

    def kernel(self, hostname: str) -> Kernel:
        """Return the kernel that the others of the session call so."""
        for kernel in self.kernels:
            if kernel.hostname == hostname:
                return kernel
        raise NotFound(f"Session {self.id} has no kernel {hostname}.")

    @property
    def is_up(self) -> bool:
        """Whether no kernel's start waits for another's any more."""
        return self.started_at is not None or len(self.kernels) == 1

    def name_of(self, kernel: Kernel) -> str | None:
        """Return what Jupyter calls a kernel; None if no server shows the session."""
        if self.jupyter_kernel_id is None or kernel.id == self.main.id:
            return self.jupyter_kernel_id
        return kernel.id


@dataclass(frozen=True, slots=True)
class Parent:
    """A session that another one depends on."""

    id: str
    name: str
    is_met: bool = False  # it has ended well


@dataclass(frozen=True, slots=True)
class Relative:
    """A session that another one depends on, or that depends on it."""

    id: str
    name: str
    status: Status
    status_reason: str
    is_met: bool  # whether the one that the other depends on has ended well


@dataclass(frozen=True, slots=True)
class WaitingKernel:
    """As much of a ``PENDING`` kernel as its placement depends on."""

    id: str
    image: str
    wanted: Amounts
    hosts: frozenset[str] = frozenset()  # the vfolder hosts of its folders


@dataclass(frozen=True, slots=True)
class WaitingSession:
    """As much of a ``PENDING`` session as its place in the queue depends on."""

    id: str
    owner: str
    group: str
    priority: int
    created_at: float
    kernels: tuple[WaitingKernel, ...]
    not_before: float = 0.0  # seconds since the epoch; 0 is at once
    status_reason: str = ""  # what its owner was told last
    mode: ClusterMode = ClusterMode.SINGLE_NODE  # means something where there are several kernels
    failed_on: frozenset[str] = frozenset()  # agents where a kernel of it could not start
    name: str = ""
    parents: tuple[Parent, ...] = ()  # that have not ended yet


@dataclass(frozen=True, slots=True)
class Occupant:
    """As much of a session that holds slots as matters to those that wait for them."""

    id: str
    owner: str
    name: str
    group: str
    since: float  # when it began to run; 0: it does not yet
    is_ending: bool
    holds: tuple[tuple[str, Amounts], ...]  # what, of which agent, for each kernel


@dataclass(frozen=True, slots=True)
class Run:
    """How long a session ran that has ended."""

    owner: str
    name: str
    group: str
    seconds: float


@dataclass(frozen=True, slots=True)
class JupyterSession:
    """What Jupyter calls a session: a notebook, a console or the like, and its kernel."""

    id: str
    owner: str
    path: str | None
    name: str | None
    type: str | None
    kernel_id: str  # Jupyter's id of it


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a kernel's history."""

    kernel_id: str
    before: Status | None
    after: Status
    reason: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class Agent:
    id: str
    version: str
    capacity: Slots
    used: Slots  # reserved for kernels on their way included
    images: tuple[str, ...]
    notes: tuple[str, ...]
    seen_at: float
    is_drained: bool = False  # what runs there goes on, and nothing new starts

    @property
    def free(self) -> Slots:
        return self.capacity - self.used


@dataclass(frozen=True, slots=True)
class VFolder:
    id: str
    owner: str
    name: str
    host: str
    path: str  # absolute path of its directory, the same on every node
    created_at: float
    permission: Permission = Permission.READ_WRITE
    status: VFolderStatus = VFolderStatus.READY
    trashed_at: float | None = None

    @property
    def readonly(self) -> bool:
        return self.permission is Permission.READ_ONLY


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    slots: Slots


@dataclass(frozen=True, slots=True)
class NewSession:
    """All that ``store`` needs to write the rows of a session; its kernels differ only in role."""

    id: str
    owner: str
    name: str
    cluster_id: str
    kernelspec: str
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    slots: Slots  # of each kernel
    mounts: tuple[Mount, ...]
    workdir: str
    shows_all: bool = False
    shm_bytes: int = 0
    priority: int = 10
    resource_group: str = DEFAULT_GROUP
    not_before: float = 0.0
    parents: tuple[Parent, ...] = ()
    jupyter_kernel_id: str | None = None
    kernel_id: str = ""  # of main1; empty: the store makes one
    cluster_size: int = 1
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    failure_policy: FailurePolicy = FailurePolicy.END
    startup: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batch: Batch | None = None
