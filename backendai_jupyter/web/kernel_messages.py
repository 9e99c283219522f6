"""A record of a kernel's journal as a message on a kernel websocket, in either of its protocols."""

from __future__ import annotations

import json
from hmac import compare_digest
from typing import Any

from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from backendai_jupyter.agent.relay.records import Frame, Kind, Record

V1 = "v1.kernel.websocket.jupyter.org"

_CHANNELS = {
    Kind.IOPUB: "iopub",
    Kind.SHELL: "shell",
    Kind.STDIN: "stdin",
    Kind.CONTROL: "control",
}
_PARTS = ("header", "parent_header", "metadata", "content")
_HEADER, _CONTENT = 1, 4  # frames of a message, its signature being the first


class Translator:
    """Turns the records that concern one client into what its websocket sends.

    With ``instead_of_traceback`` that text is shown in place of what an error says.
    """

    def __init__(
        self, session: Session, subprotocol: str | None, *, instead_of_traceback: str | None
    ) -> None:
        self._session = session
        self._is_v1 = subprotocol == V1
        self._instead = instead_of_traceback

    def message(self, record: Record) -> bytes | str | None:
        """Return the message; None where the record is for others.

        Raises ``LookupError``, ``TypeError`` or ``ValueError`` where what is read of it is
        malformed; for the legacy protocol ``ValueError`` also where its signature is wrong.  The
        other frames are the client's to read, as they are the kernel's to write.
        """
        channel = _CHANNELS.get(record.kind)
        if channel is None:
            return None
        frames: list[Frame] = [*record.frames]
        if record.kind is not Kind.IOPUB and frames.pop(0) != self._session.bsession:
            return None
        if self._is_v1:
            if self._instead is not None:
                frames = self._without_traceback(frames, self._instead)
            v1: bytes = serialize_msg_to_ws_v1(frames[1:], channel)
            return v1
        return self._legacy(frames, channel)

    def _without_traceback(self, frames: list[Frame], instead: str) -> list[Frame]:
        if _has_traceback(self._session.unpack(bytes(frames[_HEADER]))):
            content = self._session.unpack(bytes(frames[_CONTENT]))
            frames[_CONTENT] = self._session.pack(_censored(content, instead))
        return frames

    def _legacy(self, frames: list[Frame], channel: str) -> bytes | str:
        signature, *parts = (bytes(frame) for frame in frames[: _CONTENT + 1])
        if self._session.auth and not compare_digest(signature, self._session.sign(parts)):
            raise ValueError("the signature is wrong")
        header = self._session.unpack(parts[0])
        if self._instead is not None and _has_traceback(header):
            parts[3] = self._session.pack(_censored(self._session.unpack(parts[3]), self._instead))
        if buffers := frames[_CONTENT + 1 :]:
            parsed = dict(zip(_PARTS, map(self._session.unpack, parts), strict=True))
            message = {**parsed, "channel": channel, "buffers": buffers}
            message |= {key: header[key] for key in ("msg_id", "msg_type")}
            binary: bytes = serialize_binary_message(message)
            return binary
        # The frames are JSON already; to read and write them anew costs more than all else.
        known = {key: json.dumps(header[key]) for key in ("msg_id", "msg_type")}
        known |= {"channel": f'"{channel}"', "buffers": "[]"}
        known |= zip(_PARTS, (part.decode() for part in parts), strict=True)
        return "{" + ", ".join(f'"{key}": {text}' for key, text in known.items()) + "}"


def _has_traceback(header: dict[str, Any]) -> bool:
    return header["msg_type"] in {"error", "execute_reply"}


def _censored(content: dict[str, Any], instead: str) -> dict[str, Any]:
    if "traceback" not in content:
        return content
    error = {"ename": "ExecutionError", "evalue": "Execution error", "traceback": [instead]}
    return content | error
