"""The records that managers and agents exchange through the cluster and live stores.

``Assignment`` goes down: the desired state of one kernel on one agent.  ``AgentReport``
comes up: the observed state of one agent and all its kernels.  Both are JSON on the wire,
validated where they are read; a field that a newer peer adds is ignored.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from backendai_jupyter.domain.batch import BatchOrder, CellProgress
from backendai_jupyter.domain.resources import Slots


def _read_slots(raw: Any) -> Slots:
    try:
        return raw if isinstance(raw, Slots) else Slots.from_json(raw)
    except (AttributeError, TypeError, ArithmeticError):
        raise ValueError("no object of slots and amounts") from None


WireSlots = Annotated[
    Slots, BeforeValidator(_read_slots), PlainSerializer(Slots.to_json, return_type=dict)
]


# Of the records below.  Raised when an agent or a manager of before could not act on them rightly;
# a field that may be ignored needs no other number.
PROTOCOL = 1
OLDEST_PROTOCOL = 1  # that this version works with


class Record(BaseModel):
    """A frozen wire record."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class Mount(Record):
    """A host directory shown to the kernel at ``target``, an absolute path inside it.

    Where it is a virtual folder, the last three say which.
    """

    source: str
    target: str
    readonly: bool = False
    vfolder_id: str = ""
    vfolder_name: str = ""
    vfolder_host: str = ""


class Signal(Record):
    """A signal to deliver once; ``seq`` grows by one with each request for the kernel."""

    seq: int
    signum: int


class ClusterMode(StrEnum):
    """Where the kernels of one session are, and so which network is theirs alone."""

    SINGLE_NODE = "single-node"  # all on one agent, on a bridge
    MULTI_NODE = "multi-node"  # on any agents of one swarm, on an overlay


class Membership(Record):
    """The place of a kernel in a session of several.

    Its agent attaches it, as its hostname, to the network of its session, where each of ``hosts``
    can be reached by that name.  It makes a bridge for that itself; an overlay is made by the
    agent that got a ``NetworkAssignment``.
    """

    mode: ClusterMode
    role: str  # ``main`` or ``sub``
    idx: int  # 1-based within the role
    local_rank: int  # 0-based among ``hosts``
    hosts: tuple[str, ...]  # main1 first, then sub1 and so on


class NetworkAssignment(Record):
    """An overlay that an agent, whose engine manages a swarm, makes for a session.

    It is removed when its record is gone and nothing is attached any more.
    """

    session_id: str


class Assignment(Record):
    """What one kernel on one agent should be.

    ``generation`` goes up to restart the kernel program in place: same agent, slots and
    relay endpoint.  ``argv`` holds ``{connection_file}`` where the path goes.
    """

    kernel_id: str
    session_id: str
    owner: str
    generation: int
    image: str  # name of an image in the agent's report
    argv: tuple[str, ...]
    env: dict[str, str]
    limits: WireSlots
    mounts: tuple[Mount, ...] = ()
    workdir: str = "/home/work"
    shm_bytes: int = 0  # 0: as much as the agent gives any
    hostname: str = "main1"
    membership: Membership | None = None  # None: the session has no other kernel
    signal: Signal | None = None
    batch: BatchOrder | None = None  # its program runs by itself, and nobody connects to it


class Phase(StrEnum):
    """How far the agent is with a kernel."""

    PREPARING = "preparing"
    PULLING = "pulling"
    CREATING = "creating"
    RUNNING = "running"
    EXITED = "exited"  # the program ended by itself; the agent waits for the next generation
    FAILED = "failed"  # it could not be started, and nothing of it is left
    STOPPING = "stopping"  # its assignment is gone, its container not yet


class ExitReason(StrEnum):
    EXITED = "exited"  # by itself, with a code
    OUT_OF_MEMORY = "oom-killed"
    SIGNALLED = "signalled"
    STEP_FAILED = "step-failed"  # a launch step failed
    AGENT_LOST = "agent-lost"
    TIMED_OUT = "timed-out"  # its start, or a batch, took longer than it may


class Exit(Record):
    """Why a kernel program is not running; ``message`` is a sentence for its owner."""

    reason: ExitReason
    message: str
    code: int | None = None  # 128 + n for signal n
    step: str = ""  # the launch step that failed
    cause: str = ""  # the code of the error that it failed with, where that is of use
    log_tail: str = ""
    progress: CellProgress | None = None  # how far the notebook of a batch had come


class PullProgress(Record):
    """How much of an image has come; sizes are those of the registry's, compressed."""

    bytes_done: int = 0
    bytes_total: int = 0  # 0: not known yet
    layers_done: int = 0  # that are also unpacked
    layers_total: int = 0


class KernelReport(Record):
    """What an agent observes of one kernel; ``connection`` is sealed (see cluster/seal.py)."""

    kernel_id: str
    generation: int
    phase: Phase
    step: str = ""  # the launch step under way, or the one that failed
    exit: Exit | None = None
    connection: str | None = None
    signal_seq: int = 0  # of the last signal delivered
    pull: PullProgress | None = None  # while its image is on its way
    progress: CellProgress | None = None  # while the notebook of a batch runs


class Image(Record):
    """An image that an agent can start kernels from, or fetch from a registry."""

    name: str  # what kernelspecs and requests call it, e.g. ``python``
    reference: str  # what the runtime calls it, e.g. ``backendai-python:latest``
    runtime: str  # ``docker`` or ``process``
    digest: str = ""
    size_bytes: int = 0
    labels: dict[str, str] = Field(default_factory=dict)


class DeviceReport(Record):
    """One accelerator of an agent, and how much of it each kernel has."""

    id: str
    kind: str
    name: str
    memory_bytes: int  # 0: unknown
    slot: str  # that counts it
    capacity: Decimal
    held: dict[str, Decimal] = Field(default_factory=dict)  # by kernel id


class Swarm(Record):
    """The Docker Swarm that an agent's engine belongs to.

    Kernels of agents with the same ``id`` can be on one overlay.
    """

    id: str
    manages: bool  # so that overlays can be made there


class NetworkReport(Record):
    """What an agent observes of one network of a session, made on assignment."""

    session_id: str
    ready: bool  # kernels may be started on it
    message: str = ""  # a sentence: why it is not


class AgentReport(Record):
    """All that one agent says of itself.

    ``revision`` is the cluster store's revision up to which it has taken note of its
    assignments: a kernel that is neither assigned at that revision nor listed here has
    nothing left on the agent.  It speaks ``protocol``, and to who speaks ``oldest_protocol``.
    """

    agent_id: str
    revision: int
    version: str
    capacity: WireSlots
    resource_group: str = "default"
    images: tuple[Image, ...] = ()
    pullable: tuple[Image, ...] = ()  # that it does not have, and fetches for who needs them
    vfolder_hosts: dict[str, str] = Field(default_factory=dict)  # marker's id, by name of the host
    kernels: tuple[KernelReport, ...] = ()
    devices: tuple[DeviceReport, ...] = ()
    cluster_modes: tuple[ClusterMode, ...] = ()  # of sessions whose kernels may run here
    swarm: Swarm | None = None
    networks: tuple[NetworkReport, ...] = ()  # those that it was assigned, and those still there
    notes: tuple[str, ...] = ()  # what this node cannot enforce, or was told wrongly, in words
    protocol: int = 1
    oldest_protocol: int = 1

    @cached_property
    def by_kernel(self) -> dict[str, KernelReport]:
        """Its kernels by id; looked up for each of them in each pass of a manager."""
        return {kernel.kernel_id: kernel for kernel in self.kernels}

    @property
    def offered(self) -> tuple[Image, ...]:
        """All that a kernel of this agent may be made of."""
        return (*self.images, *self.pullable)


class JournalDoor(Record):
    """Where a kernel's journal is read from other machines, and which one is its own.

    ``place`` is the directory of ``journal_socket``, as ``place_of`` in agent/relay/address.py
    names it: who finds it there uses that socket.
    """

    place: str
    host: str
    port: int
    certificate: str  # PEM; the only one to trust
    token: str = Field(repr=False)


class Connection(Record):
    """How a Jupyter client reaches a kernel: the content of a connection file.

    See https://jupyter-client.readthedocs.io/en/stable/kernels.html#connection-files.
    """

    transport: str = "tcp"
    ip: str
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    key: str
    signature_scheme: str = "hmac-sha256"
    curve_publickey: str | None = None
    curve_secretkey: str | None = None
    journal_socket: str | None = None  # ours: where the relay lets its journal be read
    journal_door: JournalDoor | None = None  # ours, too: without one, the socket is right here
