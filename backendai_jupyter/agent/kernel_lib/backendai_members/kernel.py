"""The kernel of this member, as an ordinary Jupyter client sees it on its ipc sockets.

Without jupyter_client, whose import costs a member more memory than all the rest here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import zmq

from .protocol import Message, packed

DELIMITER = b"<IDS|MSG>"
MARK = struct.Struct("<4s8sQQ")  # see agent/kernel_delivery.py: magic, program, number, first
MARK_MAGIC = b"BAN1"


class Kernel:
    """Its answers are not verified: who can bind its sockets can also read its key."""

    def __init__(self, context: zmq.Context[Any], connection: Mapping[str, Any]) -> None:
        self._key = str(connection["key"]).encode()
        self._session = uuid.uuid4().hex
        self._last_mark = (b"", 0)
        self.shell = self._connect(context, zmq.DEALER, connection, "shell")
        self.control = self._connect(context, zmq.DEALER, connection, "control")
        self.iopub = self._connect(context, zmq.SUB, connection, "iopub")

    def listen(self) -> str:
        """Ask for its output; that comes once this request, which does nothing, is heard of."""
        self.iopub.subscribe(b"")
        return self._send(self.control, "kernel_info_request", {})

    def execute(self, code: str) -> str:
        """Return the id of the request."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,  # it would end the cells of others that wait
        }
        return self._send(self.shell, "execute_request", content)

    def interrupt(self) -> None:
        self._send(self.control, "interrupt_request", {})

    def reply(self) -> Message | None:
        """Return a reply on the shell channel."""
        return _read(self.shell.recv_multipart())

    def output(self) -> Message | None:
        """Return a message of its output; None for one that it has sent already."""
        frames = self.iopub.recv_multipart()
        for frame in frames[: frames.index(DELIMITER)] if DELIMITER in frames else ():
            if len(frame) == MARK.size and frame.startswith(MARK_MAGIC):
                _, program, number, _ = MARK.unpack(frame)
                last_program, last_number = self._last_mark
                if program == last_program and number <= last_number:
                    return None  # what it sends again for a relay that was killed
                self._last_mark = (program, number)
        return _read(frames)

    def _connect(
        self, context: zmq.Context[Any], kind: int, connection: Mapping[str, Any], channel: str
    ) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(kind)
        socket.linger = 0
        socket.connect(f"ipc://{connection['ip']}-{connection[f'{channel}_port']}")
        return socket

    def _send(self, socket: zmq.Socket[bytes], kind: str, content: Mapping[str, Any]) -> str:
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "username": "member",
            "session": self._session,
            "date": datetime.now(timezone.utc).isoformat(),  # noqa: UP017 - not in Python 3.10
            "version": "5.3",
        }
        parts = [packed(header), b"{}", b"{}", packed(content)]
        signature = hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest()
        socket.send_multipart([DELIMITER, signature.encode(), *parts])
        return msg_id


def _read(frames: list[bytes]) -> Message | None:
    """Return None for what is no Jupyter message."""
    if DELIMITER not in frames:
        return None
    _, header, parent, metadata, content, *buffers = frames[frames.index(DELIMITER) + 1 :]
    request = json.loads(parent).get("msg_id", "")
    return Message(request, json.loads(header)["msg_type"], content, metadata, tuple(buffers))
