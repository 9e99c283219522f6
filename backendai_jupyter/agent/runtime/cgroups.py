"""Put each kernel in a cgroup of its own, where this process is permitted to make one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from backendai_jupyter.agent.runtime.limits import Limits
from backendai_jupyter.errors import RuntimeFailed

CONTROLLERS = ("memory", "cpu", "pids")
CPU_PERIOD_US = 100_000
MIN_QUOTA_US = 1_000  # the kernel refuses less
# By version: the file, the weight that Linux gives an ordinary process or group, the most.
WEIGHTS = {1: ("cpu.shares", 1024, 262_144), 2: ("cpu.weight", 100, 10_000)}
REMOVE_WITHIN_S = 5.0
ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


class Cgroups:
    """The cgroups of one agent's kernels, one leaf directory per kernel and hierarchy.

    ``bases`` maps each controller to the directory that holds its leaves; version 2 has one
    directory for all, version 1 one for each.  All methods block for a moment: call them
    in a thread.
    """

    def __init__(self, bases: Mapping[str, Path], *, version: int) -> None:
        self._bases = dict(bases)
        self._version = version

    @property
    def enforced(self) -> frozenset[str]:
        return frozenset(self._bases)

    def create(self, name: str, limits: Limits) -> tuple[Path, ...]:
        """Make the leaves of one kernel; return the files that its first process enters by."""
        try:
            for controller, base in self._bases.items():
                _make_base(base, self._version)
                leaf = base / name
                leaf.mkdir(exist_ok=True)
                for file, value in _settings(controller, limits, self._version):
                    _write_setting(leaf / file, value)
            self._weigh()
        except OSError as error:
            self.remove(name)
            raise RuntimeFailed(f"the kernel's limits could not be set: {error}") from error
        return tuple(leaf / "cgroup.procs" for leaf in self._leaves(name))

    def oom_killed(self, name: str) -> bool:
        """Whether the kernel (Linux) has killed a process of it for using too much memory."""
        if "memory" not in self._bases:
            return False
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        try:
            lines = (self._bases["memory"] / name / file).read_text().splitlines()
        except OSError:
            return False
        return int(dict(line.split() for line in lines).get("oom_kill", 0)) > 0

    def remove(self, name: str) -> None:
        """Kill all that is left in a kernel's cgroups and remove them."""
        deadline = time.monotonic() + REMOVE_WITHIN_S
        for leaf in self._leaves(name):
            _remove_leaf(leaf, deadline)
        self._weigh()

    def close(self) -> None:
        """Remove the common directories unless another kernel or agent uses them."""
        for base in set(self._bases.values()):
            with contextlib.suppress(OSError):
                base.rmdir()

    def _weigh(self) -> None:
        """Let each kernel compete for the CPU as an ordinary process does.

        The base as a whole would otherwise weigh as much as one: beside four busy processes
        ten kernels take 8.2 s to start instead of 3.3 s.
        """
        if (base := self._bases.get("cpu")) is None:
            return
        file, one, most = WEIGHTS[self._version]
        with contextlib.suppress(OSError):  # it may be gone, or not ours where all is delegated
            kernels = sum(1 for _ in base.glob("*/"))
            (base / file).write_text(str(min(max(kernels, 1) * one, most)))

    def _leaves(self, name: str) -> list[Path]:
        return sorted({base / name for base in self._bases.values()})


def find_cgroups(parent: str, *, root: Path = ROOT, own: Path = OWN) -> Cgroups:
    """Return the cgroups that this process may make and enter; at worst none at all.

    Nothing tells beforehand what is permitted (mount options, ownership, delegation and the
    place of this process all count), so it is tried.
    """
    if (root / "cgroup.controllers").exists():
        found = [_usable(base, 2) for base in _v2_candidates(parent, root, own)]
        return max(found, key=lambda cgroups: len(cgroups.enforced))
    bases: dict[str, Path] = {}
    for controller in CONTROLLERS:
        base = root / controller / parent
        if _works({controller: base}, 1):
            bases[controller] = base
    return Cgroups(bases, version=1)


def _v2_candidates(parent: str, root: Path, own: Path) -> Iterator[Path]:
    """Yield the top of the tree, where root may build, and each delegated place above us."""
    yield root / parent
    lines = own.read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    for ancestor in Path(path).parents:
        if ancestor != Path("/"):
            yield root / ancestor.relative_to("/") / parent


def _usable(base: Path, version: int) -> Cgroups:
    try:
        _make_base(base, version)
        controllers = (base / "cgroup.subtree_control").read_text().split()
    except OSError:
        return Cgroups({}, version=version)
    bases = {controller: base for controller in CONTROLLERS if controller in controllers}
    return Cgroups(bases if bases and _works(bases, version) else {}, version=version)


def _works(bases: Mapping[str, Path], version: int) -> bool:
    """Whether a process of ours can be put into a new leaf."""
    cgroups = Cgroups(bases, version=version)
    name = f"probe-{secrets.token_hex(4)}"
    try:
        for procs in cgroups.create(name, Limits(2**30, None)):
            enter = ["/bin/sh", "-c", 'echo 0 > "$1"', "probe", str(procs)]
            subprocess.run(enter, check=True, capture_output=True)
    except (RuntimeFailed, OSError, subprocess.CalledProcessError):
        return False
    finally:
        with contextlib.suppress(RuntimeFailed):
            cgroups.remove(name)
    return True


def _make_base(base: Path, version: int) -> None:
    base.mkdir(exist_ok=True)
    if version == 1:
        return
    for directory in (base.parent, base):
        for controller in CONTROLLERS:
            # Each by itself: one that is not there must not cost us the others.
            with contextlib.suppress(OSError):
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _settings(controller: str, limits: Limits, version: int) -> Iterator[tuple[str, str]]:
    if controller == "pids":
        yield "pids.max", str(limits.processes)
    if controller == "memory" and limits.memory_bytes is not None:
        memory = str(limits.memory_bytes)
        if version == 2:
            yield from (("memory.max", memory), ("memory.swap.max", "0"))
        else:
            yield from (
                ("memory.limit_in_bytes", memory),
                ("memory.memsw.limit_in_bytes", memory),
            )
    if controller == "cpu" and limits.cpus is not None:
        quota_us = max(int(limits.cpus * CPU_PERIOD_US), MIN_QUOTA_US)
        if version == 2:
            yield "cpu.max", f"{quota_us} {CPU_PERIOD_US}"
        else:
            yield from (
                ("cpu.cfs_period_us", str(CPU_PERIOD_US)),
                ("cpu.cfs_quota_us", str(quota_us)),
            )


def _write_setting(file: Path, value: str) -> None:
    # Swap accounting is a build option of Linux; without it memory alone is limited.
    if "sw" in file.name and not file.exists():
        return
    file.write_text(value)


def _remove_leaf(leaf: Path, deadline: float) -> None:
    while True:
        _kill_members(leaf, deadline)
        try:
            leaf.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise RuntimeFailed(f"the cgroup {leaf} could not be removed: {error}") from error
            time.sleep(0.002)  # a dead process leaves its cgroup a moment after its parent knows
        else:
            return


def _kill_members(leaf: Path, deadline: float) -> None:
    try:
        pids = [int(pid) for pid in (leaf / "cgroup.procs").read_text().split()]
    except OSError:
        return
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            finally:
                os.close(pidfd)
