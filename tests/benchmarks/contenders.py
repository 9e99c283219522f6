"""What is measured against each other: Jupyter Servers, stock and ours, used as a browser does."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.cluster import Cluster
from tests.server import RunningServer

STOCK, CLUSTER = "stock", "cluster"
WITHIN_S = 120.0  # for one kernel, or ten, from the request to the end of it
_PROTOCOL = "v1.kernel.websocket.jupyter.org"


@dataclass(frozen=True, slots=True)
class Start:
    """How long a start took, step by step."""

    post_s: float
    open_s: float
    execute_s: float

    @property
    def total_s(self) -> float:
        return self.post_s + self.open_s + self.execute_s


@dataclass(frozen=True, slots=True)
class RunningKernel:
    kernel_id: str
    resource: str  # where it is deleted
    socket: WebSocketClientConnection


class Contender:
    """A server, and the kernelspec of it that is measured."""

    def __init__(self, name: str, server: RunningServer, kernelspec: str) -> None:
        self.name = name
        self.server = server
        self._kernelspec = kernelspec
        self._notebook = "nb.ipynb"

    async def prepare(self) -> None:
        """Put the notebook there that sessions are asked for."""
        listing = (await self.server.get("api/contents/")).json()["content"]
        folders = [entry["path"] for entry in listing if entry["type"] == "directory"]
        self._notebook = "/".join([*folders[:1], "nb.ipynb"])
        body = {"type": "notebook", "content": nbformat.v4.new_notebook()}
        answer = await self.server.request("PUT", f"api/contents/{self._notebook}", json=body)
        answer.raise_for_status()

    async def start(self, resource: str, *, cpus: int | None = None) -> tuple[RunningKernel, Start]:
        """Ask for a kernel, or a session, and execute a first cell in it.

        With ``cpus`` ours gets that many, where the kernelspec says one; stock has no limit.
        """
        body = self._body(resource)
        if cpus is not None and self.name != STOCK:
            body["backendai"] = {"resources": {"cpu": cpus}}
        async with asyncio.timeout(WITHIN_S):
            begin = time.perf_counter()
            answer = await self.server.post(f"api/{resource}", json=body)
            posted = time.perf_counter()
            answer.raise_for_status()
            model = answer.json()
            kernel_id = model["id"] if resource == "kernels" else model["kernel"]["id"]
            socket = await self._open(kernel_id)
            opened = time.perf_counter()
            await _execute(socket, "1")
            replied = time.perf_counter()
        kernel = RunningKernel(kernel_id, f"api/{resource}/{model['id']}", socket)
        return kernel, Start(posted - begin, opened - posted, replied - opened)

    async def end(self, kernel: RunningKernel) -> None:
        async with asyncio.timeout(WITHIN_S):
            kernel.socket.close()
            (await self.server.delete(kernel.resource)).raise_for_status()

    async def start_many(self, count: int) -> float:
        """Return the seconds until the last of ``count`` kernels answered."""
        begin = time.perf_counter()
        started = await asyncio.gather(*(self.start("kernels") for _ in range(count)))
        taken_s = time.perf_counter() - begin
        for kernel, _ in started:
            await self.end(kernel)
        return taken_s

    def connection(self, kernel: RunningKernel) -> dict[str, Any]:
        """Return what a client on this machine needs to reach the kernel without the server."""
        file = self.server.root / "runtime" / f"kernel-{kernel.kernel_id}.json"
        info: dict[str, Any] = json.loads(file.read_text())
        return info

    @property
    def directory(self) -> str:
        """The contents path of a directory to write into."""
        return self._notebook.rpartition("/")[0] or "."

    def host_path(self, path: str) -> Path:
        """Return where this machine has what the server calls ``path``."""
        if self.name == STOCK:
            return self.server.root / "work" / path
        first, _, rest = path.partition("/")
        database = self.server.root / "data" / "backendai" / "backendai.sqlite"
        with sqlite3.connect(database) as db:
            query = "SELECT path FROM vfolders WHERE name = ?"
            ((folder,),) = db.execute(query, (first,)).fetchall()
        return Path(folder, rest)

    async def _open(self, kernel_id: str) -> WebSocketClientConnection:
        url = f"{self.server.url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels"
        request = HTTPRequest(
            f"{url}?session_id={uuid.uuid4().hex}",
            headers={"Authorization": f"token {self.server.token}"},
            request_timeout=WITHIN_S,
        )
        return await websocket_connect(request, subprotocols=[_PROTOCOL])

    def _body(self, resource: str) -> dict[str, Any]:
        if resource == "kernels":
            return {"name": self._kernelspec}
        kernel = {"name": self._kernelspec}
        return {"path": self._notebook, "name": "nb", "type": "notebook", "kernel": kernel}


@asynccontextmanager
async def contender(name: str, settings: Mapping[str, object]) -> AsyncIterator[Contender]:
    """Run a server; ``settings`` are traits of ``BackendAIAgent``, and none for the stock one."""
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    ours = name != STOCK
    lines = [f"c.BackendAIAgent.{trait} = {value!r}\n" for trait, value in settings.items()]
    try:
        async with RunningServer(root, config="".join(lines), enable=ours) as server:
            made = Contender(name, server, "backendai-python" if ours else "python3")
            await made.prepare()
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def cluster_contender() -> AsyncIterator[Contender]:
    """Run a server and an agent as processes, over PostgreSQL, etcd and Redis."""
    async with Cluster() as cluster:
        await cluster.add_agent()
        made = Contender(CLUSTER, await cluster.add_server(), "backendai-python")
        await made.prepare()
        yield made


async def _execute(socket: WebSocketClientConnection, code: str) -> None:
    """Return when the reply comes."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
        "date": "",
    }
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    await socket.write_message(serialize_msg_to_ws_v1(parts, "shell"), binary=True)
    while True:
        frame = await socket.read_message()
        assert isinstance(frame, bytes), "the server closed the websocket"
        channel, received = deserialize_msg_from_ws_v1(frame)
        if channel != "shell" or json.loads(received[1]).get("msg_id") != header["msg_id"]:
            continue
        reply = json.loads(received[3])
        assert reply["status"] == "ok", reply
        return
