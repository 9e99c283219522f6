"""What may be left of kernels after their end, wherever that can be: it must be nothing."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from docker import APIClient

from backendai_jupyter.agent.runtime.docker_config import LABEL_KERNEL
from backendai_jupyter.domain.states import FINAL, TRANSITIONS, Status
from backendai_jupyter.errors import BackendError

DATABASE = "data/backendai.sqlite"
ENGINES_OWN = {"bridge", "host", "none", "ingress", "docker_gwbridge"}  # networks, of a swarm too
CGROUPS = Path("/sys/fs/cgroup")
Row = dict[str, Any]
PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


def remains(root: Path, connections: Sequence[dict[str, Any]], docker_url: str = "") -> list[str]:
    """Return in words what is left after every kernel was ended and the server stopped."""
    kernels = kernel_ids(root)
    return [
        *(f"process {line}" for line in processes(root, kernels)),
        *(f"mount {line}" for line in mounts(root)),
        *(f"file {path}" for path in files(root)),
        *(f"port {port}" for port in ports(connections)),
        *(f"cgroup {path}" for path in cgroups(kernels)),
        *database(root),
        *(docker(docker_url, kernels) if docker_url else ()),
    ]


def remains_beside_server(root: Path) -> list[str]:
    """Return in words what is left of ended kernels while their server goes on."""
    kernels = kernel_ids(root)
    names = [*kernels, *(kernel.replace("-", "")[:16] for kernel in kernels)]
    found = [path for name in names for path in root.rglob(f"*{name}*")]
    return [*(f"file {path}" for path in found), *(f"cgroup {path}" for path in cgroups(kernels))]


def kernel_ids(root: Path) -> set[str]:
    """Return the ids of all kernels that the server below ``root`` ever wrote down."""
    if not (root / DATABASE).exists():
        return set()
    with closing(sqlite3.connect(root / DATABASE)) as rows:
        return {kernel_id for (kernel_id,) in rows.execute("SELECT id FROM kernels")}


def processes(root: Path, kernels: Collection[str]) -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            owner = process.environ().get("BACKENDAI_KERNEL_ID")
            if str(root) in line or owner in kernels:
                yield f"{process.pid} {process.status()} {line}"
        except psutil.Error:
            continue


def mounts(root: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(root) in line:
            yield line


def files(root: Path) -> Iterator[Path]:
    """Sockets, checkpoints, journals, homes, instances: all but the database and folders."""
    yield from below(root / "r")
    for name in ("server", "instances", "scratch"):
        for path in below(root / "data" / name):
            if not path.is_dir() and path.name != "devices.lock":  # which stays, for the next
                yield path
    yield from (root / "data" / "scratch").glob("*/*")


def below(root: Path) -> Iterator[Path]:
    """Yield what is there, also while it is being removed, which ``rglob`` takes for an error."""
    for directory, names, files in os.walk(root):
        yield from (Path(directory, name) for name in (*names, *files))


def ports(connections: Sequence[dict[str, Any]]) -> Iterator[int]:
    for port in {known[name] for known in connections for name in PORTS if name in known}:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                yield port


def cgroups(kernels: Collection[str]) -> Iterator[Path]:
    for kernel in kernels:
        yield from CGROUPS.glob(f"*/backendai/{kernel}*")
        yield from CGROUPS.glob(f"backendai/{kernel}*")


def docker(url: str, kernels: Collection[str]) -> Iterator[str]:
    """What a private engine still has of kernels, and networks beside its own."""
    with closing(APIClient(url, version="auto", timeout=60)) as client:
        for found in client.containers(all=True):
            if found["Labels"].get(LABEL_KERNEL) in kernels:
                yield f"container {found['Names']} {found['State']}"
        for network in client.networks():
            if network["Name"] not in ENGINES_OWN:
                yield f"network {network['Name']}"


def database(root: Path) -> Iterator[str]:
    with closing(sqlite3.connect(root / DATABASE)) as rows:
        rows.row_factory = sqlite3.Row
        yield from of_rows(rows)


def of_rows(connection: Any) -> Iterator[str]:
    """Return in words what a database of any kind, whose rows are mappings, has of no end."""

    def select(query: str) -> list[Row]:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {query}").fetchall()]

    steps = select("kernel_history ORDER BY id")
    for kernel in select("kernels"):
        yield from history(kernel, [step for step in steps if step["kernel_id"] == kernel["id"]])
    for slot in select("allocations"):
        if slot["freed_at"] is None or slot["used"] or slot["reserved"]:
            yield f"slot {slot}"
    for slot in select("agent_slots WHERE used + reserved != 0"):
        yield f"agent's slot {slot}"
    for session in select("sessions WHERE ended_at IS NULL"):
        yield f"session {session['id']} {session['status']} without an end"


def history(kernel: Row, steps: Sequence[Row]) -> Iterator[str]:
    """Return in words where a kernel's history does not tell the truth."""
    before: str | None = None
    at = 0.0
    for step in steps:
        told = f"step of {kernel['id']}: {step}"
        if step["before"] != before:
            yield f"{told} does not follow {before}"
        elif before is not None and Status(step["after"]) not in TRANSITIONS[Status(before)]:
            yield f"{told} is not legal"
        if step["at"] < at:
            yield f"{told} goes back in time"
        before, at = step["after"], step["at"]
    if before != kernel["status"]:
        yield f"kernel {kernel['id']} is {kernel['status']}, its history says {before}"
    if Status(kernel["status"]) not in FINAL:
        yield f"kernel {kernel['id']} is still {kernel['status']}"
    elif not kernel["status_reason"]:
        yield f"kernel {kernel['id']} is {kernel['status']} without a reason"


def defects_in(log: str) -> list[str]:
    """Return the last lines of tracebacks that are of no error of ours, and what died."""
    ours = tuple(f"{cls.__module__}.{cls.__name__}" for cls in _subclasses(BackendError))
    lines = log.splitlines()
    found = [line for line in lines if " died" in line and " ERROR task " in line]
    inside = False
    for line in lines:
        if line.startswith("Traceback"):
            inside = True
        elif inside and line and not line[0].isspace():
            inside = False
            if not line.startswith(ours):
                found.append(line)
    return found


def _subclasses(cls: type[BackendError]) -> Iterator[type[BackendError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _subclasses(below)
