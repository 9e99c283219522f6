"""A kernel's websocket, as a browser uses it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.server import RunningServer

OURS = "backendai-python"


class Channels:
    """A kernel's websocket, as a browser uses it."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket

    @classmethod
    @asynccontextmanager
    async def open(cls, server: RunningServer, kernel_id: str) -> AsyncIterator[Channels]:
        url = f"{server.url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels"
        headers = {"Authorization": f"token {server.token}"}
        socket = await websocket_connect(HTTPRequest(url, headers=headers))
        try:
            yield cls(socket)
        finally:
            socket.close()
            while await socket.read_message() is not None:
                """Until the server has closed its side, the socket is not."""

    async def run(self, code: str) -> str:
        """Execute ``code`` and return what it printed, or the name of its error."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "",
                  "session": "s", "version": "5.3", "date": ""}  # fmt: skip
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {},
                   "content": content, "buffers": []}  # fmt: skip
        await self._socket.write_message(json.dumps(message))
        printed = ""
        while True:
            reply = await self.next()
            if reply["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if reply["msg_type"] == "stream":
                printed += reply["content"]["text"]
            if reply["msg_type"] == "error":
                return str(reply["content"]["ename"])
            if reply["content"].get("execution_state") == "idle":
                return printed

    async def next(self) -> dict[str, Any]:
        text = await self._socket.read_message()
        assert isinstance(text, str), "the server closed the websocket"
        message: dict[str, Any] = json.loads(text)
        return message


async def started(server: RunningServer, **body: Any) -> str:
    answer = await server.post("api/kernels", json={"name": OURS, **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
