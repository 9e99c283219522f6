"""The directory that says all about one kernel process; an agent that restarts reads it.

============  =============================================================================
state.json    which kernel, generation, devices and session, written before anything is started
keeper        pid and start time of the keeper, written by the keeper
child         pid of what the keeper started: the sandbox, or the kernel program itself
sandbox.json  pid of the sandbox's first process, written by bubblewrap
exit          how the program ended, written by the keeper as its last act
log, log.1    the end of what the program wrote
etc, tmp      files and directories shown inside the sandbox
============  =============================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from backendai_jupyter.agent.runtime.base import Origin

KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class KernelDir:
    """One kernel's directory; every method blocks for a moment."""

    path: Path
    kernel_id: str
    generation: int
    container_id: str
    devices: str = ""  # the record of those that it was started with
    session_id: str = ""

    def create(self) -> None:
        """Make it anew; what an agent left behind that was killed while at it goes first."""
        self.remove()
        self.path.mkdir(mode=0o700)
        (self.path / "log").touch(mode=0o600)
        state = {
            "kernel_id": self.kernel_id,
            "generation": self.generation,
            "container_id": self.container_id,
            "devices": self.devices,
            "session_id": self.session_id,
        }
        (self.path / "state.new").write_text(json.dumps(state))
        (self.path / "state.new").rename(self.path / "state.json")

    @classmethod
    def read(cls, path: Path) -> KernelDir | None:
        """Return what a directory describes, or None if its kernel was never started.

        Raises ``OSError`` if that cannot be found out now.
        """
        try:
            state = json.loads((path / "state.json").read_text())
            who = (state["kernel_id"], state["generation"], state["container_id"])
            return cls(path, *who, state.get("devices", ""), state.get("session_id", ""))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
            return None

    def open_keeper(self) -> int | None:
        """Return a pidfd of the keeper, or None if it is gone or never was.

        Raises ``OSError`` if that cannot be found out now: who cannot open another file must
        not take a kernel for dead.
        """
        try:
            pid, start_time = (self.path / "keeper").read_text().split()
            pidfd = os.pidfd_open(int(pid))
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        # Checked after opening: from here on the pid cannot become somebody else's.
        if _stat_field(int(pid), 19) != start_time or _stat_field(int(pid), 0) == "Z":
            os.close(pidfd)
            return None
        return pidfd

    def exit_code(self) -> int:
        """Return how the program ended; without a record it was killed with its keeper."""
        try:
            return int((self.path / "exit").read_text())
        except (OSError, ValueError):
            return KILLED

    def send(self, signum: int) -> bool:
        """Signal the kernel program's process group; False if there is no program."""
        pid = self._program()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            # As jupyter_client does for a local kernel: what it started is interrupted too.
            # In a sandbox its first process leads the group and is deaf to all but SIGKILL.
            group = os.getpgid(pid)
            if group in (pid, self.sandbox_pid()):
                os.killpg(group, signum)
            else:
                os.kill(pid, signum)
        return True

    def kill_all(self) -> None:
        """Kill everything the kernel consists of; the keeper sees it and ends."""
        first = self.sandbox_pid()  # Linux kills a PID space with its first process
        with contextlib.suppress(ProcessLookupError):
            if first is not None:
                os.kill(first, signal.SIGKILL)
            elif (child := self._child()) is not None:
                os.killpg(child, signal.SIGKILL)

    def origin(self) -> Origin | None:
        """Return the first process and the keeper, while both live."""
        child = self._child()
        if child is None:
            return None
        return Origin(child, reaper=int((self.path / "keeper").read_text().split()[0]))

    def log_tail(self, max_bytes: int) -> bytes:
        text = b""
        for name in ("log.1", "log"):
            with contextlib.suppress(FileNotFoundError):
                text += (self.path / name).read_bytes()
        return text[max(0, len(text) - max_bytes) :]

    def remove(self) -> None:
        remove_tree(self.path)

    def _child(self) -> int | None:
        """Return the pid of what the keeper started, while the keeper lives."""
        keeper = self.open_keeper()
        if keeper is None:
            return None
        os.close(keeper)
        try:
            return int((self.path / "child").read_text())
        except (OSError, ValueError):
            return None

    def sandbox_pid(self) -> int | None:
        """Return the pid of the sandbox's first process, while it lives."""
        child = self._child()
        try:
            first = int(json.loads((self.path / "sandbox.json").read_text())["child-pid"])
        except (OSError, ValueError, KeyError):
            return None
        # Its parent is ours, so it is the process that was meant.
        return first if child is not None and _stat_field(first, 1) == str(child) else None

    def _program(self) -> int | None:
        if not (self.path / "sandbox.json").exists():
            return self._child()
        first = self.sandbox_pid()
        if first is None:
            return None
        # The sandbox's first process reaps orphans as well; the program is its pid 2.
        return next((pid for pid in _children(first) if _inner_pid(pid) == 2), None)


def remove_tree(path: Path) -> None:
    """Remove a directory, also where a program took the right to do so from us."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        return
    for directory, names, _ in os.walk(path):
        for name in names:  # before the walk comes to them
            if not (child := Path(directory, name)).is_symlink():
                child.chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _stat_field(pid: int, index: int) -> str | None:
    """Return a field of /proc/pid/stat, counted from the one after the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[index]
    except (OSError, IndexError):
        return None


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _inner_pid(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    pids = next((line.split() for line in status.splitlines() if line.startswith("NSpid:")), [])
    return int(pids[-1]) if pids else None
