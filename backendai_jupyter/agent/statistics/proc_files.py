"""What Linux says of processes, in the files of /proc.

Reading functions take the text of a file and return None where it makes no sense.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    used_bytes: int
    peak_bytes: int
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Transfers:
    """What came in and what went out."""

    in_bytes: int
    out_bytes: int


@dataclass(frozen=True, slots=True)
class Process:
    parent: int
    own_s: float  # of processor time
    reaped_s: float  # that of its children which have ended
    resident_bytes: int


class Processes:
    """The processes of this machine at one time; each is read once."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._known: dict[int, Process | None] = {}
        self._children: dict[int, list[int]] | None = None
        self._own_network = _inode(proc / "self/ns/net")

    def get(self, pid: int) -> Process | None:
        """Return a process; None if it has ended."""
        if pid not in self._known:
            text = read_or_none(f"{self._proc}/{pid}/stat")
            self._known[pid] = None if text is None else process_of(text)
        return self._known[pid]

    def below(self, pid: int) -> list[int]:
        """Return the processes that descend from this one, without it."""
        if self._children is None:
            self._children = self._read_children()
        found, waiting = [], [pid]
        while waiting:
            children = self._children.get(waiting.pop(), [])
            found += children
            waiting += children
        return found

    def cpu_used_s(self, pids: Iterable[int], reaper: int | None) -> float:
        """Return their processor time, and that of their children which have ended.

        Those that lose their parent end as children of ``reaper``, if there is one.
        """
        found = [process for pid in pids if (process := self.get(pid)) is not None]
        heir = None if reaper is None else self.get(reaper)
        inherited_s = 0.0 if heir is None else heir.reaped_s
        return sum((process.own_s + process.reaped_s for process in found), inherited_s)

    def memory(self, pids: Iterable[int]) -> Memory:
        """Return the sum of what they have; pages that several share count for each.

        The peak is at least the highest that one of them ever had by itself.
        """
        used = peak = 0
        for pid in pids:
            if (process := self.get(pid)) is not None:
                used += process.resident_bytes
                status = read_or_none(f"{self._proc}/{pid}/status")
                peak = max(peak, (field(status, "VmHWM:") or 0) * 1024)
        return Memory(used, max(peak, used))

    def transfers(self, pids: Iterable[int]) -> Transfers | None:
        """Return what they and their ended children have read and written on disks.

        None where this may not be known of one of them.
        """
        total_in = total_out = 0
        for pid in pids:
            found = transfers_of(read_or_none(f"{self._proc}/{pid}/io") or "")
            if found is None and not (self._proc / str(pid)).exists():
                continue
            if found is None:
                return None
            total_in, total_out = total_in + found.in_bytes, total_out + found.out_bytes
        return Transfers(total_in, total_out)

    def network(self, pid: int) -> Transfers | None:
        """Return what went through a process's network; None if that is this node's own."""
        its_network = _inode(self._proc / str(pid) / "ns/net")
        if None in (self._own_network, its_network) or self._own_network == its_network:
            return None
        text = read_or_none(f"{self._proc}/{pid}/net/dev")
        return None if text is None else network_of(text)

    def _read_children(self) -> dict[int, list[int]]:
        children: dict[int, list[int]] = {}
        for entry in os.scandir(self._proc):
            if entry.name.isdigit() and (process := self.get(int(entry.name))) is not None:
                children.setdefault(process.parent, []).append(int(entry.name))
        return children


def read_or_none(path: str | Path) -> str | None:
    """Return the text of a file of Linux's; None where it cannot be read."""
    # Path.read_text takes three times as long, and there are hundreds to read.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    pieces = []
    try:
        while piece := os.read(fd, _PIECE_BYTES):
            pieces.append(piece)
    except OSError:  # a process may end, and a group go, between two of the calls
        return None
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "replace")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def number(text: str | None) -> int | None:
    """Return the one number in ``text``."""
    word = (text or "").strip()
    return int(word) if word.isascii() and word.isdigit() else None


def field(text: str | None, name: str) -> int | None:
    """Return the number in the line that begins with ``name``."""
    for line in (text or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return number(words[1])
    return None


def process_of(text: str) -> Process | None:
    """Read ``/proc/PID/stat``.  See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html."""
    words = text.rpartition(")")[2].split()  # the name before it may hold anything
    numbers = [number(words[index]) for index in (1, 11, 12, 13, 14, 21) if index < len(words)]
    if len(numbers) < 6 or None in numbers:
        return None
    parent, user, system, reaped_user, reaped_system, pages = (n or 0 for n in numbers)
    return Process(
        parent=parent,
        own_s=(user + system) / _TICKS_PER_S,
        reaped_s=(reaped_user + reaped_system) / _TICKS_PER_S,
        resident_bytes=pages * _PAGE_BYTES,
    )


def transfers_of(text: str) -> Transfers | None:
    """Read ``/proc/PID/io``."""
    in_bytes, out_bytes = field(text, "read_bytes:"), field(text, "write_bytes:")
    if in_bytes is None or out_bytes is None:
        return None
    return Transfers(in_bytes, out_bytes)


def network_of(text: str) -> Transfers | None:
    """Read ``/proc/PID/net/dev``, without the loopback."""
    total_in = total_out = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.rpartition(":")
        words = rest.split()
        if name.strip() == "lo":
            continue
        received, sent = (number(words[index]) if index < len(words) else None for index in (0, 8))
        if received is None or sent is None:
            return None
        total_in, total_out = total_in + received, total_out + sent
    return Transfers(total_in, total_out)


def busy_s_of(text: str) -> float | None:
    """Read ``/proc/stat``: the work of all cores since the machine started.

    Waiting for a disk is none, and neither is what a hypervisor gave to others.
    """
    words = text.partition("\n")[0].split()
    ticks = [number(word) for word in words[1:8]]
    if words[:1] != ["cpu"] or len(ticks) < 7:
        return None
    known = [count for count in ticks if count is not None]
    return (sum(known) - known[3] - known[4]) / _TICKS_PER_S if len(known) == 7 else None
