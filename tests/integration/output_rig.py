"""A real ipykernel that runs ``kernel_output``, and a reader that reads only when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.session import Session

from backendai_jupyter.agent.relay.layout import CHANNELS, ipc_connection
from tests.helpers import eventually
from tests.integration.relay_rig import KEEP_ALL, KEY, is_idle

TIMEOUT_S = 60.0
STALLED_S = 0.5  # without progress the writer is taken to wait
SUBSCRIBER_MESSAGES = 64  # as the relay takes them
# What cells write with: numbered pieces, so that one sees what is lost or out of order.
PREAMBLE = """
import asyncio, logging, os, subprocess, sys, threading
from IPython.display import display
_progress = os.open({progress!r}, os.O_WRONLY | os.O_CREAT)
def pieces(size, count, first=0):
    for number in range(first, first + count):
        os.pwrite(_progress, b"%8d" % number, 0)
        yield f"<{{number:08d}}" + "x" * (size - 10) + ">"
"""

Message = dict[str, Any]


class ReaderAtWill:
    """A kernel, its output of one subscriber, and the requests of one client."""

    def __init__(self, path: Path, context: zmq.Context[Any], *arguments: str) -> None:
        self._progress = path / "progress"
        file = path / "k.json"
        file.write_text(json.dumps(ipc_connection(f"{path}/k", KEY)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(file), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
            },
        )
        self._session = Session(key=KEY.encode())
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        for number, name in enumerate(CHANNELS, 1):
            if name in ("shell", "control", "iopub"):
                socket = context.socket(zmq.SUB if name == "iopub" else zmq.DEALER)
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.RCVTIMEO, int(TIMEOUT_S * 1000))
                socket.setsockopt(zmq.RCVHWM, SUBSCRIBER_MESSAGES if name == "iopub" else 0)
                socket.connect(f"ipc://{path}/k-{number}")
                self._sockets[name] = socket
        self._sockets["iopub"].subscribe(b"")

    def begin(self) -> None:
        """Wait until the kernel answers and its output comes, and give cells their names."""
        while not self._sockets["iopub"].poll(100):  # it knows of the subscription
            self.reply("shell", self.request("shell", "kernel_info_request"))
        self.run(PREAMBLE.format(progress=str(self._progress)))

    def request(self, channel: str, msg_type: str, **content: Any) -> str:
        """Send a request and return its id."""
        message = self._session.send(self._sockets[channel], msg_type, content)
        assert message is not None
        return str(message["header"]["msg_id"])

    def execute(self, code: str) -> str:
        return self.request("shell", "execute_request", code=code, silent=False)

    def reply(self, channel: str, msg_id: str) -> Message:
        """Return the reply to a request; others are passed over."""
        while (reply := self._receive(channel))["parent_header"].get("msg_id") != msg_id:
            """The reply to an earlier one."""
        return dict(reply["content"])

    def output(self, msg_id: str, length: int = 0) -> Iterator[Message]:
        """Yield what a cell sends, until it has ended and that many characters were there."""
        ended = False
        while not ended or length > 0:
            message = self._receive("iopub")
            if message["parent_header"].get("msg_id") == msg_id:
                ended = ended or is_idle(msg_id)(message)
                length -= len(text_of(message))
                yield message

    def text(self, msg_id: str, length: int = 0) -> str:
        """Return all text of a cell; what came through a pipe may follow its end."""
        return "".join(map(text_of, self.output(msg_id, length)))

    def run(self, code: str) -> str:
        msg_id = self.execute(code)
        text = self.text(msg_id)
        assert self.reply("shell", msg_id)["status"] == "ok"
        return text

    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def wait_until_stalled(self) -> int:
        """Return at which piece the writer waits."""
        last, since = self._at(), time.monotonic()

        def stalled() -> bool:
            nonlocal last, since
            now = self._at()
            if now != last:
                last, since = now, time.monotonic()
            return last >= 0 and time.monotonic() - since > STALLED_S

        asyncio.run(eventually(stalled, within_s=TIMEOUT_S))
        return last

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close()
        self.process.kill()
        self.process.wait()

    def _at(self) -> int:
        text = self._progress.read_bytes()
        return int(text) if text else -1

    def _receive(self, channel: str) -> Message:
        _, parts = self._session.feed_identities(self._sockets[channel].recv_multipart())
        return dict(self._session.deserialize(parts))


@contextmanager
def reader_at_will(path: Path, *arguments: str) -> Iterator[ReaderAtWill]:
    with zmq.Context() as context:
        kernel = ReaderAtWill(path, context, *(arguments or (KEEP_ALL,)))
        try:
            kernel.begin()
            yield kernel
        finally:
            kernel.close()


def text_of(message: Message) -> str:
    """Return what a stream or display message shows."""
    content = message["content"]
    if message["msg_type"] == "stream":
        return str(content["text"])
    if message["msg_type"] == "display_data":
        return str(content["data"]["text/plain"])
    return ""
