"""Members of one session on addresses of this machine: real ipykernels, as an agent starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.session import Session

from backendai_jupyter.agent.kernel_files import MEMBERS_KEY, OUTPUT_FILE, deliver, write_private
from backendai_jupyter.agent.kernel_lib.backendai_members.place import Place
from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.relay.layout import CHANNELS, ipc_connection
from tests.engine_materials import KERNELSPECS

KEY = "the-key-of-this-kernel"
SECRET = "5e" * 32
TIMEOUT_S = 60.0
ARGUMENTS = json.loads((KERNELSPECS / "python" / "kernel.json").read_text())["argv"][1:]

Message = dict[str, Any]


@dataclass
class Outcome:
    """What a cell said, and its reply."""

    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return sorted(self.stdout.splitlines())

    @property
    def error(self) -> str:
        """The error that the cell ended with; empty if it ended well."""
        return f"{self.reply['ename']}: {self.reply['evalue']}" if self.failed else ""

    @property
    def failed(self) -> bool:
        return bool(self.reply["status"] != "ok")


class Member:
    """A kernel with its private directory, and a client of its own."""

    def __init__(self, path: Path, host: str, hosts: list[str], secret: str) -> None:
        self.host = host
        self.place = Place(host, tuple(hosts), path)
        self._path = path
        self._context: zmq.Context[Any] = zmq.Context()
        self._session = Session(key=KEY.encode())
        path.mkdir(mode=0o700)
        node = Node(path, path, os.getuid(), os.getgid())
        deliver(path, node)
        if secret:
            write_private(path / MEMBERS_KEY, secret.encode(), node)
        (path / "connection.json").write_text(json.dumps(ipc_connection(f"{path}/s", KEY)))
        self._environment = {
            "BACKENDAI_CLUSTER_SIZE": str(len(hosts)),
            "BACKENDAI_CLUSTER_HOST": host,
            "BACKENDAI_CLUSTER_HOSTS": ",".join(hosts),
            "BACKENDAI_CLUSTER_LOCAL_RANK": str(hosts.index(host)),
        }
        self.process = self._start()
        self._sockets = {name: self._socket(name) for name in ("shell", "iopub")}
        self._sockets["iopub"].subscribe(b"")

    def wait(self) -> Member:
        """Wait until the kernel answers and its output comes."""
        while not self._sockets["iopub"].poll(100):
            request = self._session.send(self._sockets["shell"], "kernel_info_request", {})
            assert request is not None
            self._until("shell", request["header"]["msg_id"])
        return self

    def ask(self, code: str) -> str:
        """Have a cell run, and return the id of its request."""
        content = {"code": code, "silent": False, "allow_stdin": False}
        request = self._session.send(self._sockets["shell"], "execute_request", content)
        assert request is not None
        return str(request["header"]["msg_id"])

    def until_said(self, request: str, text: str, outcome: Outcome | None = None) -> Outcome:
        """Return once a cell has said that."""
        outcome = outcome or Outcome()
        while text not in outcome.stdout + outcome.stderr:
            assert not self._hear(request, outcome), f"ended without it: {outcome}"
        return outcome

    def end(self, request: str, outcome: Outcome | None = None) -> Outcome:
        """Return once a cell has ended."""
        outcome = outcome or Outcome()
        while not self._hear(request, outcome):
            """Its output comes."""
        outcome.reply = self._until("shell", request)["content"]
        return outcome

    def run(self, code: str) -> Outcome:
        return self.end(self.ask(code))

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> Member:
        self.kill()
        self.process = self._start()
        return self.wait()

    def close(self) -> None:
        self.kill()
        self._context.destroy(linger=0)

    def listener(self) -> psutil.Process | None:
        """Return the process that listens for this member."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # another one that has just ended
                if str(self._path / "kernel_lib.zip") in child.cmdline():
                    return child
        return None

    def log(self) -> str:
        path = self._path / "members.log"
        return path.read_text() if path.exists() else ""

    def _start(self) -> subprocess.Popen[bytes]:
        paths = {
            "{connection_file}": f"{self._path}/connection.json",
            "{kernel_output}": f"{self._path}/{OUTPUT_FILE}",
        }
        words = [sys.executable]
        for word in ARGUMENTS:
            for placeholder, path in paths.items():
                word = word.replace(placeholder, path)
            words.append(word)
        outside = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST", "PYTHON"))}
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=outside | self._environment,
            cwd=self._path,
            start_new_session=True,
        )

    def _socket(self, name: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB if name == "iopub" else zmq.DEALER)
        socket.setsockopt(zmq.RCVTIMEO, int(TIMEOUT_S * 1000))
        socket.setsockopt(zmq.RCVHWM, 0)  # nobody reads it while a test asks another member
        socket.connect(f"ipc://{self._path}/s-{CHANNELS.index(name) + 1}")
        return socket

    def _until(self, channel: str, request: str) -> Message:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            message = self._receive(channel)
            if message["parent_header"].get("msg_id") == request:
                return message
        raise AssertionError(f"no answer to {request} within {TIMEOUT_S} s")

    def _hear(self, request: str, outcome: Outcome) -> bool:
        """Take one message of a cell, and return whether it was the last."""
        message = self._until("iopub", request)
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            name = content["name"]
            setattr(outcome, name, getattr(outcome, name) + content["text"])
        elif kind in ("display_data", "execute_result"):
            outcome.displays.append(content["data"])
        return bool(kind == "status" and content["execution_state"] == "idle")

    def _receive(self, channel: str) -> Message:
        frames = self._sockets[channel].recv_multipart()
        _, parts = self._session.feed_identities(frames)
        return dict(self._session.deserialize(parts))


@contextmanager
def members(path: Path, *, size: int, secrets: tuple[str, ...] = ()) -> Iterator[list[Member]]:
    """Members whose names are addresses that no other run of the tests has.

    ``secrets`` are theirs where they differ.
    """
    network = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
    hosts = [f"{network}.{number}" for number in range(1, size + 1)]
    started: list[Member] = []
    try:
        for number, host in enumerate(hosts):
            secret = secrets[number] if secrets else SECRET if size > 1 else ""
            started.append(Member(path / f"m{number}", host, hosts, secret))
        for member in started:
            member.wait()
        yield started
    finally:
        for member in started:
            member.close()
