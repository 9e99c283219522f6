"""A cluster is upgraded process by process while a notebook computes: nobody notices."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
import pytest

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.stores import open_cluster_store
from tests import next_version
from tests.acceptance.kernel_client import KernelClient, Message, printed
from tests.acceptance.test_cluster import run, started
from tests.cluster import AgentProcess, Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(300)

COMPUTES = """
import pathlib, time
n = 0
while not pathlib.Path('/home/work/data/enough').exists():
    print('<%d>' % n, flush=True)
    n += 1
    time.sleep(0.02)
"""


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


class Notebook:
    """A page that shows one kernel's output; where its server goes, it turns to another."""

    def __init__(self, kernel_id: str, servers: list[RunningServer]) -> None:
        self.kernel_id = kernel_id
        self._servers = servers
        self._session = ""
        self._messages: dict[str, Message] = {}  # by id
        self._request = ""

    async def compute(self, server: RunningServer) -> None:
        async with self._open(server) as client:
            self._session = client.session
            self._request = await client.execute(COMPUTES)
            self._note(await client.until(_is_output))

    @asynccontextmanager
    async def watched_at(self, server: RunningServer) -> AsyncIterator[None]:
        """Show the output through ``server`` for as long as the context is open."""
        async with self._open(server) as client:
            self._note(await client.until(_is_output))
            yield
            self._note(await client.until(_is_output))
            self._note(await client.rest(quiet_s=0.01))

    async def end(self, server: RunningServer) -> str:
        """Return all that it has shown once the cell is done."""
        async with self._open(server) as client:
            self._note(await client.until_done(self._request))
        return printed([m for m in self._messages.values() if m.parent["msg_id"] == self._request])

    def _open(self, server: RunningServer) -> Any:
        return KernelClient.open(server.url, server.token, self.kernel_id, session=self._session)

    def _note(self, messages: list[Message]) -> None:
        self._messages |= {m.header["msg_id"]: m for m in messages}


def _is_output(message: Message) -> bool:
    return message.type == "stream"


Process = AgentProcess | RunningServer


def same(process: Process) -> None:
    """The next process is of the same version."""


def upgraded(process: Process) -> None:
    process.env |= next_version.environment(process.module)
    process.module = "tests.next_version"


@pytest.mark.parametrize("change", [same, upgraded], ids=["restart", "upgrade"])
async def test_one_process_after_the_other(
    cluster: Cluster, change: Callable[[Process], None]
) -> None:
    for _ in range(2):
        await cluster.add_agent()
    one, other = await asyncio.gather(cluster.add_server(), cluster.add_server())
    kernel_id = await started(one)
    notebook = Notebook(kernel_id, [one, other])
    await run(one, kernel_id, "x = 41")
    await notebook.compute(one)
    ended: list[str] = []
    for agent in cluster.agents:
        async with notebook.watched_at(one):
            await agent.stop()
            change(agent)
            starting = asyncio.ensure_future(started(other))
            await agent.start()
            ended.append(await starting)
    for server, remaining in ((one, other), (other, one)):
        async with notebook.watched_at(remaining):
            server.signal(signal.SIGTERM)
            await server.wait()
            ended.append(await started(remaining))
            change(server)
            await server.start()
            ended.append(await started(server))
            assert await is_at_rest(cluster)
    await written(one, "enough")
    lines = (await notebook.end(one)).splitlines()
    assert lines == [f"<{number}>" for number in range(len(lines))]
    assert await run(other, kernel_id, "print(x + 1, n)") == f"42 {len(lines)}\n"
    for extra in ended:
        assert (await other.delete(f"api/kernels/{extra}")).status_code == 204


async def test_two_versions_that_stay_do_not_undo_each_other(cluster: Cluster) -> None:
    for _ in range(2):
        await cluster.add_agent()
    old, new = await cluster.add_server(), await cluster.add_server()
    kernel_id = await started(old)
    for process in (cluster.agents[1], new):
        await ended(process)
        upgraded(process)
        await process.start()
    second = await started(new)
    for server in (old, new):
        for kernel in (kernel_id, second):
            assert await run(server, kernel, "print(1)") == "1\n"
            answer = await server.post(f"api/kernels/{kernel}/interrupt")
            assert answer.status_code == 204
            answer = await server.post(f"api/kernels/{kernel}/restart")
            assert answer.status_code == 200, (answer.text, server.log)
    assert await is_at_rest(cluster)
    versions = {one["id"]: one["version"] for one in await agents(old)}
    assert versions["agent-2"] == next_version.VERSION
    async with open_cluster_store(cluster.etcd.url()) as store:
        texts = [json.loads(e.value) for e in (await store.list(keys.ASSIGNMENTS)).entries]
    assert len(texts) == 2
    for kernel in (kernel_id, second):
        assert (await old.delete(f"api/kernels/{kernel}")).status_code == 204


async def test_a_manager_that_is_older_than_the_database_says_so_and_touches_nothing(
    cluster: Cluster,
) -> None:
    await cluster.add_agent()
    server = await cluster.add_server()
    kernel_id = await started(server)
    await run(server, kernel_id, "x = 1")
    (known,) = await ask(cluster, "SELECT version_num FROM alembic_version")
    await tell(cluster, "UPDATE alembic_version SET version_num = '0099'")
    await tell(cluster, "ALTER TABLE kernels ADD COLUMN colour VARCHAR DEFAULT 'blue' NOT NULL")
    assert await run(server, kernel_id, "x += 1; print(x)") == "2\n"  # it has not read it again
    second = await started(server)
    await ended(server)
    before = await ask(cluster, "SELECT id, status, generation FROM kernels ORDER BY id")
    with pytest.raises(AssertionError, match=r"has schema version 0099, newer than this program's"):
        await server.start()
    assert await ask(cluster, "SELECT id, status, generation FROM kernels ORDER BY id") == before
    await tell(cluster, "UPDATE alembic_version SET version_num = %s", *known)
    await server.start()
    assert await run(server, kernel_id, "print(x)") == "2\n"
    for kernel in (kernel_id, second):
        assert (await server.delete(f"api/kernels/{kernel}")).status_code == 204


async def is_at_rest(cluster: Cluster) -> bool:
    """Whether managers leave the assignments alone that are there."""
    async with open_cluster_store(cluster.etcd.url()) as store:
        revisions: list[int] = []

        async def stays() -> bool:
            entries = (await store.list(keys.ASSIGNMENTS)).entries
            revisions.append(max((entry.revision for entry in entries), default=0))
            return len(revisions) > 200 and len(set(revisions[-200:])) == 1

        return await eventually(stays, within_s=30)


async def ended(process: Process) -> None:
    process.signal(signal.SIGTERM)
    await process.wait()


async def written(server: RunningServer, name: str) -> None:
    """Make a file where kernels work."""
    file = {"type": "file", "format": "text", "content": ""}
    answer = await server.request("PUT", f"api/contents/data/{name}", json=file)
    assert answer.is_success, answer.text


async def agents(server: RunningServer) -> list[dict[str, Any]]:
    return list((await server.get("backendai/v1/agents")).json())


async def ask(cluster: Cluster, query: LiteralString) -> list[tuple[Any, ...]]:
    async with await _connected(cluster) as conn:
        return await (await conn.execute(query)).fetchall()


async def tell(cluster: Cluster, statement: LiteralString, *values: str) -> None:
    async with await _connected(cluster) as conn:
        await conn.execute(statement, values or None)


def _connected(cluster: Cluster) -> Awaitable[psycopg.AsyncConnection[Any]]:
    url = cluster.postgres.url.replace("+psycopg", "")
    return psycopg.AsyncConnection.connect(url, autocommit=True)
