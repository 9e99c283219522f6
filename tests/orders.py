"""Plays the manager of two nodes: writes assignments and networks, and reads reports.

So the agents' side of sessions of several kernels can be looked at alone.  The programs are the
light ones of the benchmarks; what is tried inside a container is executed there beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from backendai_jupyter.agent.runtime.docker_config import LABEL_KERNEL
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.stores import open_stores
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import (
    AgentReport,
    Assignment,
    ClusterMode,
    KernelReport,
    NetworkAssignment,
    Phase,
)
from tests.benchmarks import light_kernel
from tests.engine_materials import find_command
from tests.helpers import eventually
from tests.nodes import Node, Nodes
from tests.services import url_of
from tests.siblings import asks, listens, members

WITHIN_S = 60.0
ENGINES_OWN = {"bridge", "host", "none", "ingress", "docker_gwbridge"}
LIGHT = ("python", "-c", Path(light_kernel.__file__).read_text(), "{connection_file}")


@dataclass(frozen=True, slots=True)
class Session:
    """Where its kernels are, by host name, and who makes its overlay."""

    id: str
    mode: ClusterMode
    nodes: dict[str, Node]
    kernels: dict[str, str]

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(self.nodes)


class Orders:
    """What agents are told and what they say, over the stores that they use."""

    def __init__(self, nodes: Nodes, cluster: ClusterStore, live: LiveStore) -> None:
        self.nodes = nodes
        self._cluster = cluster
        self._live = live

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, nodes: Nodes) -> AsyncIterator[Orders]:
        etcd, redis = url_of(nodes.cluster.members), nodes.cluster.redis.url()
        async with open_stores(etcd, redis) as (cluster, live):
            yield cls(nodes, cluster, live)

    async def order(self, places: Sequence[Node], mode: ClusterMode) -> Session:
        """Ask for a session with a kernel on each of these; its overlay is made by the first."""
        hosts = members(len(places), mode)
        session = Session(
            str(uuid4()),
            mode,
            dict(zip(hosts, places, strict=True)),
            {host: str(uuid4()) for host in hosts},
        )
        if mode is ClusterMode.MULTI_NODE:
            await self.order_overlay(session.id)
            await eventually(lambda: self.has_overlay(session.id), within_s=WITHIN_S)
        for host, membership in hosts.items():
            node = session.nodes[host]
            assignment = Assignment(
                kernel_id=session.kernels[host],
                session_id=session.id,
                owner="u",
                generation=1,
                image="python",
                argv=LIGHT,
                env={},
                limits=Slots.parse({"cpu": "1", "mem": "64m"}),
                hostname=host,
                membership=membership,
            )
            key = keys.assignment(node.name, assignment.kernel_id)
            await self._cluster.put(key, assignment.model_dump_json())
        return session

    async def order_overlay(self, session_id: str) -> None:
        key = keys.network(self.nodes.nodes[0].name, session_id)
        await self._cluster.put(key, NetworkAssignment(session_id=session_id).model_dump_json())

    async def until_running(self, session: Session) -> None:
        async def all_run() -> bool:
            found = await self.kernels(session)
            failed = [one for one in found.values() if one.phase is Phase.FAILED]
            assert not failed, failed
            return len(found) == len(session.kernels) and all(
                one.phase is Phase.RUNNING for one in found.values()
            )

        await eventually(all_run, within_s=WITHIN_S)

    async def end(self, session: Session) -> None:
        """Take all back, and wait until the agents have."""
        await self.withdraw(session)

        async def gone() -> bool:
            return not await self.kernels(session) and not await self.has_overlay(session.id)

        await eventually(gone, within_s=WITHIN_S)

    async def withdraw(self, session: Session) -> None:
        for host, node in session.nodes.items():
            await self._cluster.delete(keys.assignment(node.name, session.kernels[host]))
        await self._cluster.delete(keys.network(self.nodes.nodes[0].name, session.id))

    async def report(self, node: Node) -> AgentReport:
        text = await self._live.get(keys.report(node.name))
        assert text is not None
        return AgentReport.model_validate_json(text)

    async def kernels(self, session: Session) -> dict[str, KernelReport]:
        """Return what agents say of a session's kernels, by their ids."""
        reports = [await self.report(node) for node in set(session.nodes.values())]
        found = {one.kernel_id: one for report in reports for one in report.kernels}
        return {id_: found[id_] for id_ in session.kernels.values() if id_ in found}

    async def has_overlay(self, session_id: str) -> bool:
        reports = (await self.report(self.nodes.nodes[0])).networks
        return any(one.session_id == session_id and one.ready for one in reports)


async def all_reached(session: Session) -> dict[str, str]:
    """Let each kernel listen at its own name and ask every one by its; return what they said."""
    for host in session.hosts:
        await asyncio.to_thread(execute, session, host, listens(host), detach=True)
    said = await asyncio.gather(
        *(asyncio.to_thread(execute, session, host, asks(session.hosts)) for host in session.hosts)
    )
    return dict(zip(session.hosts, said, strict=True))


def execute(session: Session, host: str, code: str, *, detach: bool = False) -> str:
    """Run Python in the container of a kernel; return what it printed."""
    with session.nodes[host].engine.client() as client:
        label = f"{LABEL_KERNEL}={session.kernels[host]}"
        (found,) = client.containers(filters={"label": label})
        made = client.exec_create(found["Id"], ["python3", "-u", "-c", code])
        raw: bytes = client.exec_start(made["Id"], detach=detach)
    return "" if detach else raw.decode()


def remains(node: Node) -> set[str]:
    """Return in words what an engine and its machine have for networks beside their own."""
    with node.engine.client() as client:
        named = {one["Name"] for one in client.networks()} - ENGINES_OWN
        containers = {name for one in client.containers(all=True) for name in one["Names"]}
    ip = [*node.machine.enter, find_command("ip"), "-o", "link"]
    listed = subprocess.run(ip, capture_output=True, text=True, check=True).stdout
    links = {line.split(": ")[1].partition("@")[0] for line in listed.splitlines()}
    # The files that they were mounted on go within a minute, at the engine's own pace.
    mounts = Path(f"/proc/{node.engine.pid}/mountinfo").read_text().splitlines()
    spaces = {line.split()[4] for line in mounts if f"{node.engine.state}/exec/netns/" in line}
    return {
        *(f"network {one}" for one in named),
        *(f"container {one}" for one in containers),
        *(f"link {one}" for one in links),
        *(f"namespace {one}" for one in spaces),
    }
