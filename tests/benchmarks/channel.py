"""A client of kernel websockets that spends as little time as it can, and whom it talks to."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.server import RunningServer

STOCK, LIFTED = "stock", "lifted"  # contenders; those of ours have the names of runtimes
REPLY, IDLE = b'"execute_reply"', b'"idle"'
V1, LEGACY = "v1.kernel.websocket.jupyter.org", ""
SMALL_BYTES = 16384  # a reply with its traceback is smaller, and a piece of a flood is not
WITHIN_S = 120.0
LOST_AFTER_S = 30.0  # without a frame while one is awaited


@dataclass(frozen=True, slots=True)
class Came:
    """What a client got, and when the last of it, by ``perf_counter``."""

    frames: int
    size_bytes: int
    last: float


class Channel:
    """One websocket, whose client spends as little time as it can on what it gets."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Address, protocol: str = V1) -> AsyncIterator[Channel]:
        request = HTTPRequest(
            f"{address.url.replace('http', 'ws', 1)}api/kernels/{address.kernel_id}/channels"
            f"?session_id={uuid.uuid4().hex}",
            headers={"Authorization": f"token {address.token}"},
            request_timeout=WITHIN_S,
        )
        socket = await websocket_connect(request, subprotocols=[protocol] if protocol else None)
        channel = cls(socket)
        try:
            await channel.trip_s()  # the kernel is ready, and all that came before is read
            yield channel
        finally:
            socket.close()

    async def execute(self, code: str) -> bytes:
        """Ask for an execution and return its message id."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "",
                  "session": "benchmark", "version": "5.3", "date": ""}  # fmt: skip
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        if self._socket.selected_subprotocol == V1:
            parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
            await self._socket.write_message(serialize_msg_to_ws_v1(parts, "shell"), binary=True)
        else:
            message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {},
                       "content": content, "buffers": []}  # fmt: skip
            await self._socket.write_message(json.dumps(message))
        return header["msg_id"].encode()

    async def frame(self) -> bytes:
        """Return the next frame of either protocol."""
        frame = await self._socket.read_message()
        assert frame is not None, "the server closed the websocket"
        return frame.encode() if isinstance(frame, str) else frame

    async def until_done(self, msg_id: bytes, marks: Sequence[bytes] = (REPLY, IDLE)) -> Came:
        """Return what came up to the reply and the idle status, which stock may lose."""
        awaited = {*marks}
        count = size = 0
        last = time.perf_counter()
        while awaited:
            try:
                async with asyncio.timeout(LOST_AFTER_S):
                    frame = await self.frame()
            except TimeoutError:
                if REPLY in awaited:
                    raise
                break
            count, size, last = count + 1, size + len(frame), time.perf_counter()
            if len(frame) < SMALL_BYTES and msg_id in frame:
                awaited -= {mark for mark in awaited if mark in frame}
        return Came(count, size, last)

    async def trip_s(self) -> float:
        begin = time.perf_counter()
        await self.until_done(await self.execute("1"))
        return time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Address:
    """Where a kernel is, for any process."""

    url: str
    token: str
    kernel_id: str


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    server: RunningServer

    async def start(self) -> Address:
        """Start a kernel that may use the whole machine, as the stock one may."""
        body: dict[str, Any] = {"name": "python3"}
        if self.name not in (STOCK, LIFTED):
            # More than there is: a quota that is just used up throttles a flood.
            cpus = 2 * (os.cpu_count() or 1)
            body = {"name": "backendai-python", "backendai": {"resources": {"cpu": cpus}}}
        answer = await self.server.post("api/kernels", json=body, timeout=WITHIN_S)
        answer.raise_for_status()
        return Address(self.server.url, self.server.token, answer.json()["id"])

    async def interrupt(self, address: Address) -> None:
        answer = await self.server.post(f"api/kernels/{address.kernel_id}/interrupt")
        answer.raise_for_status()

    async def end(self, address: Address) -> None:
        await self.server.delete(f"api/kernels/{address.kernel_id}", timeout=WITHIN_S)

    def rss_mb(self) -> float:
        """Return the memory of the server, and of the relay where there is one."""
        mine = str(self.server.root)
        total = psutil.Process(self.server.pid).memory_info().rss
        for process in psutil.process_iter(["cmdline", "memory_info"]):
            command = " ".join(process.info["cmdline"] or ())
            if "backendai_jupyter.agent.relay" in command and mine in command:
                total += process.info["memory_info"].rss
        return float(total / 1e6)
