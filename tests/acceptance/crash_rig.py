"""The servers that crash tests kill, with one way to talk to them, and who else can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from backendai_jupyter.agent.runtime import keeper
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import BackendError
from backendai_jupyter.supervisor import Supervisor
from tests.acceptance import crash_driver
from tests.acceptance.channels import OURS, Channels
from tests.acceptance.crash_remains import kernel_ids
from tests.helpers import eventually
from tests.integration.relay_rig import run, stock_client
from tests.server import RunningServer, private_directories

READY_WITHIN_S = 40.0
STOP_WITHIN_S = 40.0
ANSWER_WITHIN_S = 60.0
FAST: dict[str, dict[str, Any]] = {
    "BackendAI": {"full_pass_s": 0.3, "restart_grace_s": 2.0, "start_timeout_s": 40.0},
    "BackendAIAgent": {"heartbeat_s": 0.4, "stop_grace_s": 0.5, "answer_timeout_s": 20.0},
}


class ToldSo(BackendError):
    """What the user was told, by name and sentence."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")


class ServerGone(Exception):
    """The driver ended before it answered."""


class Server(Protocol):
    """A server in a process of its own; killed and started again over the same ``root``."""

    root: Path

    @property
    def pid(self) -> int: ...

    @property
    def lives(self) -> bool: ...

    @property
    def log(self) -> str: ...

    async def begin(self) -> None:
        """Start the process; ``until_ready`` says when it is one."""

    async def until_ready(self) -> None:
        """Wait until the kernels of the one before it are known; raises ``ServerGone``."""

    async def ask(self, op: str, **arguments: Any) -> Any:
        """Return the answer; raises ``ToldSo`` or ``ServerGone``."""

    async def run(self, kernel: dict[str, Any], code: str) -> str:
        """Execute ``code`` in a kernel as ``kernels`` tells it; return what it printed."""

    def signal(self, signum: int) -> None: ...

    async def gone(self) -> int:
        """Wait until the process has ended and return its exit code."""

    async def stop(self) -> int:
        """Let it end as a server does that is asked to."""

    async def close(self) -> None:
        """End it by force if it still lives."""


class Driver:
    """The smallest server, or batch run (crash_driver.py), as a process."""

    def __init__(self, root: Path, points: Path, agent: dict[str, Any], how: str = "serve") -> None:
        self.root = root
        self._how = how
        self.pid = 0
        self._log = root / "driver.log"
        self._env = {**os.environ, **private_directories(root), "BACKENDAI_POINTS": str(points)}
        self._settings = json.dumps(settings(root, agent))
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._supervisor = Supervisor()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def begin(self) -> None:
        command = (sys.executable, "-m", crash_driver.__name__, self._settings, self._how)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
            )
        self.pid = self._process.pid
        self._waiting = {0: asyncio.get_running_loop().create_future()}
        self._supervisor.task("answers", self._read(self._process, self._waiting))

    async def until_ready(self) -> None:
        async with asyncio.timeout(READY_WITHIN_S):
            await self._waiting[0]

    async def ask(self, op: str, **arguments: Any) -> Any:
        answer = self._send(op, **arguments)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            said = await answer
        assert "defect" not in said, said["defect"]
        if "error" in said:
            raise ToldSo(said["error"], said["message"])
        return said["ok"]

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    async def run(self, kernel: dict[str, Any], code: str) -> str:
        async with stock_client(Connection.model_validate(kernel["connection"])) as client:
            return await client.do(run, code)

    async def gone(self) -> int:
        # Not its wait(), which may wait for ever for a pipe that closed before.
        await eventually(lambda: not self.lives, within_s=STOP_WITHIN_S)
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    async def stop(self) -> int:
        with contextlib.suppress(ServerGone):
            self._send("stop").cancel()
        return await self.gone()

    async def close(self) -> None:
        if self.lives:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            await self.gone()
        await self._supervisor.close()

    def _send(self, op: str, **arguments: Any) -> asyncio.Future[dict[str, Any]]:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise ServerGone
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        process.stdin.write(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
        return answer

    async def _read(
        self, process: asyncio.subprocess.Process, waiting: dict[int, asyncio.Future[Any]]
    ) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            if not (answer := waiting[said["id"]]).done():
                answer.set_result(said)
        await eventually(lambda: process.returncode is not None, within_s=STOP_WITHIN_S)
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(ServerGone())
                answer.exception()  # nobody may be waiting for it


class JupyterServer(RunningServer):
    """A Jupyter Server with our extension, asked over HTTP; its restarter revives kernels."""

    def __init__(self, root: Path, points: Path, agent: dict[str, Any]) -> None:
        lines = [
            f"c.{section}.{name} = {value!r}"
            for section, values in settings(root, agent).items()
            for name, value in values.items()
        ]
        env = {"BACKENDAI_POINTS": str(points)}
        super().__init__(root, config="\n".join(lines), env=env, kernels_outlive=True)

    @property
    def lives(self) -> bool:
        return not self._has_ended()

    async def begin(self) -> None:
        await self.start()

    async def until_ready(self) -> None:
        """It is."""

    async def ask(self, op: str, **arguments: Any) -> Any:
        try:
            return await getattr(self, f"_{op}")(**arguments)
        except httpx.TransportError as error:
            await eventually(lambda: not self.lives)  # nothing else may break a connection
            raise ServerGone from error

    async def run(self, kernel: dict[str, Any], code: str) -> str:
        async with Channels.open(self, kernel["kernel"]) as channels:
            return await channels.run(code)

    async def gone(self) -> int:
        return await self.wait()

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.wait()

    async def _start(self, kernel: str) -> dict[str, Any]:
        asked = {"name": OURS, "backendai": {"resources": {"cuda.device": 1}}}
        answer = _told(await self.post("api/kernels", json=asked))
        return {"kernel": answer.json()["id"]}

    async def _restart(self, kernel: str) -> dict[str, Any]:
        _told(await self.post(f"api/kernels/{kernel}/restart"))
        return {"kernel": kernel}

    async def _interrupt(self, kernel: str) -> None:
        _told(await self.post(f"api/kernels/{kernel}/interrupt"))

    async def _terminate(self, kernel: str) -> None:
        _told(await self.delete(f"api/kernels/{kernel}"))

    async def _kernels(self) -> list[dict[str, Any]]:
        listed = {model["id"] for model in (await self.get("api/kernels")).json()}
        sessions = (await self.get("backendai/v1/sessions")).json()
        return [_kernel_of(session, session["id"] in listed) for session in sessions]


def settings(root: Path, agent: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configuration of a server below ``root``, with what the agent shall have."""
    made = {name: dict(section) for name, section in FAST.items()}
    made["BackendAI"].update(data_dir=str(root / "data"), runtime_dir=str(root / "r"))
    made["BackendAIAgent"].update(agent, devices=[{"id": "the-only-one"}])
    return made


def _told(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise ToldSo(str(answer.status_code), answer.json()["message"])
    return answer


def _kernel_of(session: dict[str, Any], is_listed: bool) -> dict[str, Any]:
    (kernel,) = session["kernels"]
    is_reachable = is_listed and session["status"] == "RUNNING"
    return {
        "kernel": session["id"],
        "status": session["status"],
        "reason": session["status_reason"],
        "generation": kernel["generation"],
        "connection": {"id": session["id"]} if is_reachable else None,
    }


def pids_of(root: Path, victim: str) -> list[int]:
    """Return the processes that a victim of the server below ``root`` consists of, now."""
    kernels = kernel_ids(root)
    return [p.pid for p in psutil.process_iter() if _is(p, root, victim, kernels)]


def end_all(root: Path) -> None:
    """Kill what a test that failed has left."""
    for victim in ("relay", "keeper", "kernel"):
        for pid in pids_of(root, victim):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is(process: psutil.Process, root: Path, victim: str, kernels: set[str]) -> bool:
    try:
        words = process.cmdline()
        match victim:
            case "relay":
                return "backendai_jupyter.agent.relay" in words and str(root) in " ".join(words)
            case "keeper":
                return keeper.__file__ in words and str(root) in " ".join(words)
            case "kernel":
                return process.environ().get("BACKENDAI_KERNEL_ID") in kernels
    except psutil.Error:
        return False
    raise ValueError(victim)
