"""What Linux counts for a control group: where its files are, and what they say.

Version 1 has a directory for each controller, version 2 one for all, and some machines have
both.  A file that is missing or makes no sense says None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backendai_jupyter.agent.statistics.proc_files import Memory, field, number, read_or_none

UNIFIED = ""  # stands for version 2 where controllers are named
NO_LIMIT = 1 << 60  # version 1 has no word for it, and says the largest number of pages


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where the tree of some controller is mounted, and which part of it that is."""

    root: str
    point: Path

    def directory(self, path: str) -> Path | None:
        """Return the directory of a group that processes name by ``path``."""
        inside = PurePosixPath(path)
        if not inside.is_relative_to(self.root) or ".." in inside.parts:
            return None
        return self.point / inside.relative_to(self.root)


def hierarchies_of(mountinfo: str) -> dict[str, Hierarchy]:
    """Read ``/proc/self/mountinfo``; by controller, and ``UNIFIED``."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.split("\n"):
        place, _, system = line.partition(" - ")
        words, kind = place.split(" "), system.split(" ")
        if len(words) < 5 or len(kind) < 3:
            continue
        hierarchy = Hierarchy(_unescaped(words[3]), Path(_unescaped(words[4])))
        if kind[0] == "cgroup2":
            found.setdefault(UNIFIED, hierarchy)
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                found.setdefault(option, hierarchy)
    return found


def memberships_of(text: str) -> dict[str, str]:
    """Read ``/proc/PID/cgroup``: the path of the process's group, by controller."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(":", 2)
        if len(words) == 3:
            found |= dict.fromkeys(words[1].split(","), words[2])
    return found


def group_path(path: str, name: str) -> str | None:
    """Return the part of ``path`` that leads to the group called ``name``, if it does.

    Engines call it ``NAME``, or ``docker-NAME.scope`` where systemd makes it.
    """
    parts = PurePosixPath(path).parts
    for count, part in enumerate(parts, 1):
        if name in part:
            return str(PurePosixPath(*parts[:count]))
    return None


class Group:
    """The control group of one kernel, if it has one of its own."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = {name: str(path) for name, path in directories.items()}

    @classmethod
    def of(cls, memberships: str, mountinfo: str, name: str) -> Group:
        """Return the group called ``name`` that a process is in; both texts are Linux's."""
        hierarchies = hierarchies_of(mountinfo)
        directories: dict[str, Path] = {}
        for controller, path in memberships_of(memberships).items():
            own, hierarchy = group_path(path, name), hierarchies.get(controller)
            if own is not None and hierarchy is not None:
                directory = hierarchy.directory(own)
                if directory is not None:
                    directories[controller] = directory
        return cls(directories)

    def pids(self) -> list[int] | None:
        """Return the processes in it; None if it has none of its own, or is gone."""
        for directory in self._directories.values():
            text = read_or_none(f"{directory}/cgroup.procs")
            if text is not None:
                return [int(word) for word in text.split() if word.isdigit()]
        return None

    def cpu_used_s(self) -> float | None:
        nanoseconds = number(self._read("cpuacct", "cpuacct.usage"))
        if nanoseconds is not None:
            return nanoseconds / 1e9
        microseconds = field(self._read(UNIFIED, "cpu.stat"), "usage_usec")
        return None if microseconds is None else microseconds / 1e6

    def memory(self) -> Memory | None:
        """Return what it has; None where Linux does not count its memory."""
        if "memory" in self._directories:
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes")
            return self._memory("memory", *names, droppable="total_inactive_file")
        names = ("memory.current", "memory.peak", "memory.max")
        return self._memory(UNIFIED, *names, droppable="inactive_file")

    def _memory(
        self, controller: str, usage: str, peak: str, limit: str, *, droppable: str
    ) -> Memory | None:
        used = number(self._read(controller, usage))
        pages = field(self._read(controller, "memory.stat"), droppable)
        if used is None or pages is None:
            return None
        most = number(self._read(controller, limit))
        return Memory(
            used_bytes=max(used - pages, 0),
            # Linux before 5.19 keeps no peak in version 2.
            peak_bytes=max(number(self._read(controller, peak)) or 0, used),
            limit_bytes=most if most is not None and most < NO_LIMIT else None,
        )

    def _read(self, controller: str, file: str) -> str | None:
        directory = self._directories.get(controller)
        return None if directory is None else read_or_none(f"{directory}/{file}")


def _unescaped(word: str) -> str:
    """Undo what mountinfo does to blanks in paths."""
    return "".join(_characters(word))


def _characters(word: str) -> Iterator[str]:
    rest = word
    while rest:
        code = rest[1:4]
        if rest[0] == "\\" and len(code) == 3 and set(code) <= set("01234567"):
            yield chr(int(code, 8))
            rest = rest[4:]
        else:
            yield rest[0]
            rest = rest[1:]
