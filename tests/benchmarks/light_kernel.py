"""A kernel that is little more than its five sockets, so that hundreds fit on one machine.

Its whole text goes on the command line (see ``light_spec``), because a kernel's sandbox does not
show this directory.  It speaks Jupyter's protocol and executes one statement only:
``stream RATE SECONDS`` prints so many numbered lines per second.  All else is answered at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
KINDS = {"shell": zmq.ROUTER, "iopub": zmq.PUB, "stdin": zmq.ROUTER, "control": zmq.ROUTER}
INFO = {"status": "ok", "protocol_version": "5.3", "implementation": "light", "banner": "",
        "implementation_version": "1", "language_info": {"name": "text", "version": "1",
        "mimetype": "text/plain", "file_extension": ".txt"}}  # fmt: skip
LINE = "x" * 90


class LightKernel:
    """Serves until it is asked to shut down."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._connection = connection
        self._key = connection["key"].encode()
        self._session = uuid.uuid4().hex
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = {name: self._bound(name, kind) for name, kind in KINDS.items()}
        self._heart = self._bound("hb", zmq.ROUTER)
        self._stream: Stream | None = None
        self._is_over = False

    def serve(self) -> None:
        poller = zmq.Poller()
        asked = {self._sockets[name]: name for name in ("control", "shell")}
        for socket in (*asked, self._heart):
            poller.register(socket, zmq.POLLIN)
        while not self._is_over:
            ready = dict(poller.poll(None if self._stream is None else self._stream.wait_ms()))
            if self._heart in ready:
                self._heart.send_multipart(self._heart.recv_multipart())
            for socket, name in asked.items():
                if socket in ready and (name == "control" or self._stream is None):
                    self._take(socket)
            if self._stream is not None:
                self._go_on(self._stream)
        self._context.destroy(linger=500)

    def _take(self, socket: zmq.Socket[bytes]) -> None:
        frames = socket.recv_multipart()
        cut = frames.index(DELIMITER)
        route, raw = frames[:cut], frames[cut + 2]
        request, content = json.loads(raw), json.loads(frames[cut + 5])
        self._say("status", {"execution_state": "busy"}, raw)
        kind = request["msg_type"]
        if kind == "execute_request" and content["code"].startswith("stream "):
            _, rate, seconds = content["code"].split()
            self._stream = Stream(route, raw, int(rate), float(seconds))
            return
        answer = INFO if kind == "kernel_info_request" else {"status": "ok", "execution_count": 1}
        self._is_over = kind == "shutdown_request"
        self._answer(socket, route, raw, kind, answer | {"restart": content.get("restart", False)})

    def _go_on(self, stream: Stream) -> None:
        for number in stream.due():
            text = f"<{number}>{LINE}\n"
            self._say("stream", {"name": "stdout", "text": text}, stream.request)
        if stream.is_done:
            self._stream = None
            answer = {"status": "ok", "execution_count": 1}
            shell = self._sockets["shell"]
            self._answer(shell, stream.route, stream.request, "execute_request", answer)

    def _answer(
        self,
        socket: zmq.Socket[bytes],
        route: list[bytes],
        request: bytes,
        kind: str,
        content: dict[str, Any],
    ) -> None:
        reply = self._message(kind.replace("_request", "_reply"), content, request)
        socket.send_multipart([*route, *reply])
        self._say("status", {"execution_state": "idle"}, request)

    def _say(self, kind: str, content: dict[str, Any], request: bytes) -> None:
        message = self._message(kind, content, request)
        self._sockets["iopub"].send_multipart([f"kernel.{kind}".encode(), *message])

    def _message(self, kind: str, content: dict[str, Any], request: bytes) -> list[bytes]:
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "light",
                  "session": self._session, "version": "5.3", "date": date}  # fmt: skip
        parts = [json.dumps(header).encode(), request, b"{}", json.dumps(content).encode()]
        signature = hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest()
        return [DELIMITER, signature.encode(), *parts]

    def _bound(self, name: str, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        transport, host = self._connection["transport"], self._connection["ip"]
        separator = ":" if transport == "tcp" else "-"
        for side in ("server", "public", "secret"):  # stock servers may encrypt
            if side == "server" and self._connection.get("curve_secretkey"):
                socket.curve_server = True
            elif value := self._connection.get(f"curve_{side}key"):
                setattr(socket, f"curve_{side}key", value.encode())
        socket.bind(f"{transport}://{host}{separator}{self._connection[f'{name}_port']}")
        return socket


class Stream:
    """Numbered lines at a steady rate, for some time."""

    def __init__(self, route: list[bytes], request: bytes, rate: int, seconds: float) -> None:
        self.route, self.request = route, request
        self._rate, self._count = rate, int(rate * seconds)
        self._said = 0
        self._began = time.monotonic()

    @property
    def is_done(self) -> bool:
        return self._said == self._count

    def due(self) -> range:
        first = self._said
        passed = int((time.monotonic() - self._began) * self._rate)
        self._said = min(max(passed, first), self._count)
        return range(first, self._said)

    def wait_ms(self) -> int:
        return max(int(((self._said + 1) / self._rate + self._began - time.monotonic()) * 1e3), 1)


def light_spec(*, ours: bool, mem: str = "64m") -> dict[str, Any]:
    """Return a kernelspec of this kernel, for a server of ours or for a stock one."""
    python = "python" if ours else sys.executable
    spec: dict[str, Any] = {
        "argv": [python, "-c", Path(__file__).read_text(), "{connection_file}"],
        "display_name": "Light",
        "language": "text",
        "metadata": {"supported_encryption": ["curve"]},
    }
    if ours:
        config = {"image": "python", "resources": {"cpu": 1, "mem": mem}}
        spec["metadata"]["kernel_provisioner"] = {
            "provisioner_name": "backendai-provisioner",
            "config": config,
        }
    return spec


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    LightKernel(json.loads(Path(sys.argv[1]).read_text())).serve()
