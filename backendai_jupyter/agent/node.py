"""What one node is: its directories, the identity of its kernels, its capacity."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.agent.accelerators.book import DIRECTORY as _DEVICES
from backendai_jupyter.agent.checkpoints import Checkpoints
from backendai_jupyter.domain.resources import Slots

_CHECKPOINTS = "checkpoints"
_JOURNALS = "journals"
_NO_HOMES = {_CHECKPOINTS, _JOURNALS, _DEVICES}

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """Where an agent keeps what belongs to its kernels, and as whom they run.

    ``run_root`` must be short: a socket's path may have 107 bytes.  A privileged agent runs
    kernels as ``uid:gid``, any other as itself.
    """

    run_root: Path
    scratch_root: Path
    uid: int
    gid: int

    def run_dir(self, kernel_id: str) -> Path:
        return self.run_root / kernel_id.replace("-", "")[:16]

    def home_dir(self, kernel_id: str) -> Path:
        return self.scratch_root / kernel_id

    def journal_dir(self, kernel_id: str) -> Path:
        return self.scratch_root / _JOURNALS / kernel_id

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.scratch_root / _CHECKPOINTS)

    def kernels(self) -> set[str]:
        """Return the ids of all kernels of which there is anything in the directories."""
        homes = {path.name for path in self.scratch_root.glob("*/")} - _NO_HOMES
        with_devices = {path.stem for path in (self.scratch_root / _DEVICES).glob("*.json")}
        return homes | self.checkpoints.kernels() | with_devices

    def make_private(self, path: Path) -> None:
        """Make ``path`` a directory that only its kernel (and root) can enter."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.give(path)

    def give(self, path: Path) -> None:
        """Hand ``path`` to the kernels' user."""
        if os.geteuid() == 0:
            # Where nothing confines kernels, one may have put a link there.
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def remove(self, kernel_id: str) -> None:
        """Remove a kernel's directories; succeeds if they are gone.

        Its home goes last: an agent that is killed before finds it, and removes the rest.
        """
        shutil.rmtree(self.run_dir(kernel_id), ignore_errors=True)
        shutil.rmtree(self.journal_dir(kernel_id), ignore_errors=True)
        self.checkpoints.remove(kernel_id)
        shutil.rmtree(self.home_dir(kernel_id), ignore_errors=True)


def kernel_identity(uid: int) -> tuple[int, int]:
    """Return the ``(uid, gid)`` of kernels: never root; an unprivileged agent's own."""
    if os.geteuid() == 0:
        return uid, uid
    return os.geteuid(), os.getegid()


def measure_capacity(*, cpu_overcommit: float, mem_reserve_bytes: int) -> Slots:
    """Return what this node can give to kernels, as the agent's own limits allow it."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in filter(Path.exists, _CGROUP_LIMITS):
        text = limit.read_text().strip()
        memory = min(memory, int(text)) if text.isdigit() else memory
    return Slots(
        {
            "cpu": Decimal(cpus) * Decimal(str(cpu_overcommit)),
            "mem": max(memory - mem_reserve_bytes, 0),
        }
    )
