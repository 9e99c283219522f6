"""What the agent needs from a container runtime, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backendai_jupyter.agent.accelerators.exposure import Exposure
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import ClusterMode, Image, Membership, Mount

HOME = "/home/work"  # the kernel's home directory inside the container
RUN_DIR = "/run/backendai"  # where it finds its connection file and its sockets


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One kernel program to run, with every path already decided.

    ``run_dir`` (connection file, ipc sockets) and ``home_dir`` exist on the host, belong
    to ``uid:gid`` and are shown inside at ``Inside.run_dir`` and ``Inside.home``.
    """

    kernel_id: str
    session_id: str
    generation: int
    image: Image
    argv: tuple[str, ...]  # complete: no placeholder left
    env: dict[str, str]
    limits: Slots
    mounts: tuple[Mount, ...]
    workdir: str  # as seen inside
    run_dir: Path
    home_dir: Path
    uid: int
    gid: int
    hostname: str
    devices: Exposure = field(default_factory=Exposure)
    membership: Membership | None = None  # None: it is on no network of its session
    shm_bytes: int = 0  # 0: as usual


@dataclass(frozen=True, slots=True)
class ContainerState:
    kernel_id: str
    generation: int
    container_id: str
    exit_code: int | None  # None while it runs; 128 + n for signal n
    oom_killed: bool = False
    devices: str = ""  # the ``record`` of the devices that it was started with
    session_id: str = ""  # empty for one that was started by a former version


@dataclass(frozen=True, slots=True)
class Inside:
    """Where a kernel sees its own directories."""

    run_dir: str
    home: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the processes of a kernel that runs are found on this node.

    ``reaper`` is a process of the runtime's that all of them descend from, and that none of
    them is.
    """

    first: int  # the process that was there before all others
    reaper: int | None = None


class Networks(Protocol):
    """The networks of sessions of several kernels, as a runtime has them on this node.

    What exists is told by the runtime, not by this object: one of an agent that was killed is
    found again.  ``open`` and ``close`` are not called at the same time for one session.
    """

    def modes(self) -> tuple[ClusterMode, ...]:
        """Return of which sessions some kernels can run; known once the runtime is open."""
        ...

    async def open(self, session_id: str, membership: Membership) -> None:
        """See that a kernel of the session can be started on its network; idempotent.

        Raises ``RuntimeFailed`` with what to do when it cannot.
        """
        ...

    async def close(self, session_id: str) -> None:
        """End what ``open`` has made; succeed if there is nothing, or something is attached."""
        ...

    async def sessions(self) -> set[str]:
        """Return those that ``open`` has made something for that is still there."""
        ...


class KernelRuntime(Protocol):
    """Start, signal, stop and list the kernel programs of one agent.

    All methods are idempotent and keyed by ``kernel_id``, which the runtime stores on the
    container itself (a label, a state file): after a restart of the agent ``list`` is the
    truth and the agent's memory is not.  No method blocks the event loop.
    """

    name: str  # ``docker`` or ``process``; an Image carries it

    @property
    def networks(self) -> Networks: ...

    async def open(self) -> None:
        """Get ready; raises ``RuntimeFailed`` with what to do when it cannot."""
        ...

    async def close(self) -> None:
        """Release resources of this process; kernels keep running."""
        ...

    async def images(self) -> tuple[Image, ...]:
        """Return what kernels can start from; of several with one name the newest first."""
        ...

    def image_changes(self) -> AsyncIterator[None]:
        """Yield soon after ``images`` has become another; a hint, may miss some."""
        ...

    def inside(self, spec_run_dir: Path, spec_home_dir: Path) -> Inside:
        """Return where a kernel with these host directories will see them."""
        ...

    async def start(self, spec: ContainerSpec) -> ContainerState:
        """Create and start; return the existing one if this generation already exists.

        Raises ``RuntimeFailed`` if it is refused, with nothing left behind.
        """
        ...

    async def signal(self, kernel_id: str, signum: int) -> None:
        """Deliver a signal to the kernel program; succeed if it is already gone."""
        ...

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        """SIGTERM, SIGKILL after ``grace_s`` seconds, remove; succeed if already gone."""
        ...

    async def list(self) -> list[ContainerState]:
        """Return every container this agent owns, dead ones included."""
        ...

    async def pid(self, kernel_id: str) -> int | None:
        """Return a process of this node that has the program's view of the file system.

        None if there is no such view, or no program.
        """
        ...

    async def origin(self, kernel_id: str) -> Origin | None:
        """Return where a kernel's processes come from; None if it does not run."""
        ...

    async def log_tail(self, kernel_id: str, *, max_bytes: int) -> str:
        """Return the end of what the program wrote to stdout and stderr."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """Yield the id of a kernel soon after its program ended; a hint, may miss some."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What this runtime cannot enforce here, one sentence each; known after ``open``."""
        ...
