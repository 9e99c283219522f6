"""A real Jupyter Server in a process and directories of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.helpers import eventually

EXTENSION = "backendai_jupyter"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0
ABORT_WITHIN_S = 5.0
SHOWN_OF_LOG_CHARS = 1_200  # in a message; CI shows little of a long one
TELLS_WHERE = {"PYTHONFAULTHANDLER": "1"}
"""Lets a server that is aborted say what each of its threads was at."""


class RunningServer:
    """A server on a port that the system chose; use it as ``async with``.

    Started again, it has the same port and token.
    ``root`` gets its configuration, data, runtime and working directories and must have a
    short name, for sockets.  A second server with the same ``root`` shares all of them.
    """

    def __init__(
        self,
        root: Path,
        *,
        args: Sequence[str] = (),
        config: str = "",
        env: Mapping[str, str] | None = None,
        module: str = "jupyter_server",
        enable: bool | None = True,
        kernels_outlive: bool = False,
        python: str = sys.executable,
    ) -> None:
        """``config`` is appended to ``jupyter_server_config.py``.

        Kernels end with the server, so that a test leaves nothing behind.  Where they outlive
        it they end with the ``async with``.

        ``enable`` says whether our extension is used; None leaves it to the installation.
        """
        self.root = root
        self.token = secrets.token_hex(16)
        self.url = ""
        self.env = {**os.environ, **TELLS_WHERE, **private_directories(root), **(env or {})}
        self._args = [*args]
        self._config = config
        self._kernels_outlive = kernels_outlive
        self.module = module
        self._enable = enable
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        self._log = root / f"server-{self.token[:8]}.log"

    async def __aenter__(self) -> RunningServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        if self._kernels_outlive:
            self._kernels_outlive = False
            await self.start()  # this one ends what the others have left
            await self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._client is not None and not self._has_ended()

    @property
    def log(self) -> str:
        """All that the server has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self) -> None:
        """Return when ``/api/status`` answers; fails with the log if it never does."""
        for name in ("config", "data", "runtime", "work"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        ending = f"\nc.BackendAI.end_kernels_with_server = {not self._kernels_outlive}\n"
        (self.root / "config" / "jupyter_server_config.py").write_text(self._config + ending)
        self._process = self._launch()
        info = self.root / "runtime" / f"jpserver-{self.pid}.json"
        try:
            await eventually(lambda: self._has_ended() or info.exists(), within_s=START_WITHIN_S)
            assert not self._has_ended()
            self.url = await eventually(lambda: _url_in(info))
            headers = {"Authorization": f"token {self.token}"}
            self._client = httpx.AsyncClient(
                base_url=self.url, headers=headers, timeout=60.0, trust_env=False
            )
            answers: Callable[[], bool | Awaitable[bool]] = self._answers
            await eventually(answers, within_s=START_WITHIN_S)
        except AssertionError as error:
            await self.close()
            raise AssertionError(self._explained("the server did not start")) from error

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as the server's owner; ``path`` has no leading slash."""
        assert self._client is not None
        return await self._client.request(method, path, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """Read the body of an answer piece by piece."""
        assert self._client is not None
        async with self._client.stream("GET", path) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                yield piece

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("DELETE", path, **options)

    def signal(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    async def wait(self) -> int:
        """Wait until the server has ended and return its exit code."""
        assert self._process is not None
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        await eventually(self._has_ended, within_s=STOP_WITHIN_S)
        return self._process.wait()

    async def restart(self, how: int) -> None:
        """End the server and start another over the same directories."""
        self.signal(how)
        await self.wait()
        await self.start()

    async def close(self) -> None:
        """End the server as an operator does, or by force where that does not help."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if self._process is None or self._has_ended():
            return
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        await eventually(
            lambda: self._has_ended() or time.monotonic() > deadline, within_s=STOP_WITHIN_S + 5
        )
        if not self._has_ended():
            self.signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that is held takes no signal
                self._process.wait(ABORT_WITHIN_S)
            self._process.kill()
            self._process.wait()
            raise AssertionError(self._explained("the server did not end after SIGTERM"))

    def _explained(self, problem: str) -> str:
        """Return the problem with the end of the log, and write the whole log to stderr."""
        sys.stderr.write(self.log)
        return f"{problem}; its log ends with\n{self.log[-SHOWN_OF_LOG_CHARS:]}"

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [self._python, "-m", self.module, *self._options(), *self._args]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.root / "work", env=self.env, stdout=log, stderr=log
            )

    def _options(self) -> list[str]:
        options = [
            *("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
            f"--ServerApp.port={httpx.URL(self.url).port or 0}",
            f"--IdentityProvider.token={self.token}",
        ]
        if self._enable is not None:
            options.append(f"--ServerApp.jpserver_extensions={EXTENSION}={self._enable}")
        return options

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def _answers(self) -> bool:
        assert not self._has_ended()
        try:
            return (await self.get("api/status")).is_success
        except httpx.TransportError:
            return False


def private_directories(root: Path) -> dict[str, str]:
    """Return the environment in which Jupyter keeps everything below ``root``."""
    return {
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
        "IPYTHONDIR": str(root / "ipython"),
        "XDG_RUNTIME_DIR": str(root / "runtime"),
    }


def _url_in(info: Path) -> str:
    try:
        return str(httpx.Response(200, content=info.read_bytes()).json()["url"])
    except ValueError:  # it is being written
        return ""
