"""A client of kernel websockets that says who it is, and may be slow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.acceptance.channels import started
from tests.server import RunningServer

V1 = "v1.kernel.websocket.jupyter.org"
MAX_BYTES = 512 << 20


@dataclass
class Message:
    """A message as either protocol has it."""

    channel: str
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]
    buffers: list[bytes] = field(default_factory=list)

    @property
    def type(self) -> str:
        return str(self.header["msg_type"])

    def is_idle_of(self, msg_id: str) -> bool:
        is_idle = self.content.get("execution_state") == "idle"
        return is_idle and self.parent.get("msg_id") == msg_id


class KernelClient:
    """One websocket of a client session; reads only when it is asked to."""

    def __init__(self, socket: WebSocketClientConnection, session: str) -> None:
        self.session = session
        self._socket = socket
        self._reading: asyncio.Future[str | bytes | None] | None = None
        self._is_v1 = socket.selected_subprotocol == V1

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        token: str,
        kernel_id: str,
        *,
        session: str = "",
        protocol: str = V1,
        cafile: Path | None = None,
    ) -> AsyncIterator[KernelClient]:
        """Connect to ``url``, a server's or a link's; ``protocol`` may be empty: legacy."""
        session = session or uuid.uuid4().hex
        where = f"{url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels"
        request = HTTPRequest(
            f"{where}?session_id={session}",
            headers={"Authorization": f"token {token}"},
            ca_certs=None if cafile is None else str(cafile),
        )
        socket = await websocket_connect(
            request, subprotocols=[protocol] if protocol else None, max_message_size=MAX_BYTES
        )
        client = cls(socket, session)
        try:
            yield client
        finally:
            client.leave()

    def leave(self) -> None:
        """Close without waiting for the server, which may be out of reach."""
        protocol = self._socket.protocol
        if protocol is not None:
            self._socket.close()
            protocol._abort()

    async def send(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        channel: str = "shell",
        buffers: tuple[bytes, ...] = (),
    ) -> str:
        """Send a message and return its id."""
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": msg_type, "username": "", "session": self.session,
                  "version": "5.3", "date": "2026-01-01T00:00:00Z"}  # fmt: skip
        if self._is_v1:
            frames = [json.dumps(part).encode() for part in (header, {}, {}, content)]
            message = serialize_msg_to_ws_v1([*frames, *buffers], channel)
            await self._socket.write_message(message, binary=True)
        else:
            legacy = {"channel": channel, "header": header, "parent_header": {}, "metadata": {},
                      "content": content, "buffers": []}  # fmt: skip
            await self._socket.write_message(json.dumps(legacy))
        return msg_id

    async def execute(self, code: str, **content: Any) -> str:
        """Ask for an execution and return its message id."""
        request = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
        return await self.send("execute_request", {**request, **content})

    async def next(self, *, within_s: float = 30) -> Message:
        data = await self._read(within_s)
        assert data is not None, "the server closed the websocket"
        if isinstance(data, bytes) and self._is_v1:
            channel, frames = deserialize_msg_from_ws_v1(data)
            header, parent, _, content = (json.loads(frame) for frame in frames[:4])
            return Message(channel, header, parent, content, frames[4:])
        legacy = deserialize_binary_message(data) if isinstance(data, bytes) else json.loads(data)
        return Message(
            legacy["channel"],
            legacy["header"],
            legacy["parent_header"],
            legacy["content"],
            legacy.get("buffers", []),
        )

    async def _read(self, within_s: float) -> str | bytes | None:
        """Return a message; one that comes just as the time is over is not lost."""
        self._reading = reading = self._reading or asyncio.ensure_future(
            self._socket.read_message()
        )
        await asyncio.wait({reading}, timeout=within_s)
        if not reading.done():
            raise TimeoutError
        self._reading = None
        return reading.result()

    async def until(self, is_last: Callable[[Message], bool], **options: Any) -> list[Message]:
        """Return the messages up to one that ``is_last``."""
        messages = [await self.next(**options)]
        while not is_last(messages[-1]):
            messages.append(await self.next(**options))
        return messages

    async def rest(self, *, quiet_s: float = 0.5) -> list[Message]:
        """Return what has arrived already."""
        messages = []
        with contextlib.suppress(TimeoutError):
            while True:
                messages.append(await self.next(within_s=quiet_s))
        return messages

    async def last(self) -> list[Message]:
        """Return what still comes until the server closes the websocket."""
        messages = []
        with contextlib.suppress(AssertionError):
            while True:
                messages.append(await self.next())
        return messages

    async def run(self, code: str, *, within_s: float = 30, **content: Any) -> list[Message]:
        """Execute ``code`` and return what came up to its idle status and its reply."""
        msg_id = await self.execute(code, **content)
        return await self.until_done(msg_id, within_s=within_s)

    async def until_done(self, msg_id: str, *, within_s: float = 30) -> list[Message]:
        """Return what comes until an execution of this client is idle and answered."""
        messages: list[Message] = []
        missing = {"idle", "reply"}
        while missing:
            messages.append(message := await self.next(within_s=within_s))
            if message.is_idle_of(msg_id):
                missing.discard("idle")
            if message.type == "execute_reply" and message.parent["msg_id"] == msg_id:
                missing.discard("reply")
        return messages


def printed(messages: list[Message]) -> str:
    """Return what these messages show of standard output and standard error."""
    return "".join(m.content["text"] for m in messages if m.type == "stream")


class Clients:
    """Opens clients of one kernel, which leave at the end if not before."""

    def __init__(self, server: RunningServer, kernel_id: str, stack: AsyncExitStack) -> None:
        self.kernel_id = kernel_id
        self._server = server
        self._stack = stack

    @classmethod
    @asynccontextmanager
    async def of_new_kernel(cls, server: RunningServer) -> AsyncIterator[Clients]:
        """Start a kernel for the time of the context."""
        kernel_id = await started(server)
        async with AsyncExitStack() as stack:
            yield cls(server, kernel_id, stack)
        await server.delete(f"api/kernels/{kernel_id}")

    async def open(self, url: str = "", **options: Any) -> KernelClient:
        """Connect to ``url``, a link's, or straight to the server."""
        opening = KernelClient.open(
            url or self._server.url, self._server.token, self.kernel_id, **options
        )
        return await self._stack.enter_async_context(opening)


class Rooted(Protocol):
    """A server, or an agent of its own: all that it starts is told a path below ``root``."""

    root: Path


def relay_of(owner: Rooted) -> psutil.Process:
    """Return the relay of a server, or agent, that has one."""
    (relay,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if (line := " ".join(process.info["cmdline"] or ()))
        and "backendai_jupyter.agent.relay" in line
        and str(owner.root) in line
    )
    return relay
