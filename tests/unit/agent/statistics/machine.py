"""The files in which Linux would describe a machine, made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONTAINER = "4f5e8a"
V1_MOUNTS = ("memory", "cpuacct", "pids")


class Machine:
    """A ``/proc`` and a ``/sys/fs/cgroup`` below one directory."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self._mounts: list[str] = []
        self.write(self.proc / "self/mountinfo", "")
        self.write(self.proc / "self/ns/net", "")

    def mount_v1(self, *controllers: str) -> None:
        for name in controllers:
            point = self.cgroup / name
            self._mounts.append(f"30 25 0:26 / {point} rw,relatime - cgroup cgroup rw,{name}")
        self.write(self.proc / "self/mountinfo", "\n".join(self._mounts))

    def mount_v2(self, *, root: str = "/") -> None:
        line = f"29 23 0:26 {root} {self.cgroup} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate"
        self._mounts.append(line)
        self.write(self.proc / "self/mountinfo", "\n".join(self._mounts))

    def process(
        self,
        pid: int,
        *,
        parent: int = 1,
        cgroup: str = "0::/",
        cpu_s: float = 0,
        reaped_s: float = 0,
        pages: int = 0,
        peak_kib: int = 0,
        io: tuple[int, int] | None = None,
        net: str | None = None,
    ) -> None:
        ticks, reaped = int(cpu_s * 100), int(reaped_s * 100)
        stat = (
            f"{pid} (a) b (c)) S {parent} {pid} {pid} 0 -1 4194560 1 0 0 0 "
            f"{ticks} 0 {reaped} 0 20 0 1 0 1000 1000000 {pages} 18446744073709551615\n"
        )
        directory = self.proc / str(pid)
        self.write(directory / "stat", stat)
        self.write(directory / "cgroup", cgroup)
        self.write(directory / "status", f"Name:\tx\nVmHWM:\t{peak_kib} kB\n")
        if io is not None:
            text = f"rchar: 9\nread_bytes: {io[0]}\nwrite_bytes: {io[1]}\n"
            self.write(directory / "io", text)
        if net is not None:
            self.write(directory / "ns/net", "")
            self.write(directory / "net/dev", net)

    def end(self, pid: int) -> None:
        for path in sorted((self.proc / str(pid)).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.proc / str(pid)).rmdir()

    def group_v1(self, files: Mapping[str, Mapping[str, object]]) -> None:
        """Write the files of the container's group in each hierarchy."""
        for controller, contents in files.items():
            for name, text in contents.items():
                self.write(self.cgroup / controller / "docker" / CONTAINER / name, f"{text}\n")

    def group_v2(self, path: str, files: Mapping[str, object]) -> None:
        for name, text in files.items():
            self.write(self.cgroup / path / name, f"{text}\n")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
