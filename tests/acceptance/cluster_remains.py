"""What may be left of kernels of a cluster after their end, wherever it can be: nothing must be."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import psycopg
from psycopg.rows import dict_row

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.stores import open_cluster_store
from tests.acceptance.crash_remains import cgroups, docker, of_rows, processes
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.nodes import Node, Nodes
from tests.server import RunningServer

GONE_WITHIN_S = 60.0


async def nothing_left(nodes: Nodes) -> None:
    """End every kernel, as its owner would, and wait until nothing is left of any."""
    seen: list[str] = []

    async def is_clean() -> bool:
        await end_all(nodes.servers[0])
        seen[:] = [*(await assignments(nodes.cluster)), *rows(nodes.cluster)]
        for node in nodes.nodes:
            seen.extend(f"{node.name}: {left}" for left in of_node(node, kernels(nodes.cluster)))
        return seen == []

    try:
        await eventually(is_clean, within_s=GONE_WITHIN_S)
    except AssertionError:
        raise AssertionError("\n".join(seen)) from None


async def end_all(server: RunningServer) -> None:
    for kernel in (await server.get("api/kernels")).json():
        answer = await server.delete(f"api/kernels/{kernel['id']}")
        assert answer.status_code in {204, 404, 503}, answer.text


async def assignments(cluster: Cluster) -> list[str]:
    async with open_cluster_store(cluster.etcd.url()) as store:
        return [f"key {entry.key}" for entry in (await store.list(keys.ASSIGNMENTS)).entries]


def rows(cluster: Cluster) -> list[str]:
    with psycopg.connect(cluster.postgres.url, row_factory=dict_row) as connection:
        return list(of_rows(connection))


def kernels(cluster: Cluster) -> set[str]:
    """Return the ids of all kernels that there ever were."""
    with psycopg.connect(cluster.postgres.url) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM kernels")}


def of_node(node: Node, ended: set[str]) -> Iterator[str]:
    yield from docker(node.engine.url, ended)
    for process in processes(node.engine.state / "no such directory", ended):
        yield f"process {process}"
    for line in node.machine.mounts():
        if line.split()[4] not in {str(node.machine.run_dir), str(node.machine.state_dir)}:
            yield f"mount {line}"
    scratch = node.machine.seen(node.machine.state_dir / "scratch")
    for pattern in ("*-*", "checkpoints/*", "journals/*"):
        yield from (f"file {path}" for path in scratch.glob(pattern))
    run = node.machine.seen(node.machine.run_dir / "agent")
    for name in [*ended, *(kernel.replace("-", "")[:16] for kernel in ended)]:
        yield from (f"file {path}" for path in run.rglob(f"*{name}*"))
    yield from (f"cgroup {path}" for path in cgroups(ended))
    yield from (f"shim {pid}" for pid in shims(node))


def shims(node: Node) -> Iterator[int]:
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["name"].startswith("containerd-shim") and str(node.engine.state) in line:
            yield process.pid
