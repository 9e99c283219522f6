"""The agent's side of the relay process: starts it, finds it again, asks it."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.relay.address import address_from_here, address_of, place_of
from backendai_jupyter.agent.relay.gateway import identity_of
from backendai_jupyter.agent.relay.identity import ensure_identity
from backendai_jupyter.agent.relay.layout import MAX_SOCKET_PATH_BYTES, listens
from backendai_jupyter.agent.relay.process import MAX_LINE_BYTES, PROTOCOL
from backendai_jupyter.domain.wire import Connection, JournalDoor
from backendai_jupyter.errors import RelayFailed, RelayLost
from backendai_jupyter.supervisor import Supervisor

_START_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_S = 20.0
_ATTEMPTS = 3
# By default malloc asks the system for each message of a megabyte and gives it back at once,
# which costs more than encrypting it: 2.0 s of processor time for each GB instead of 0.9 s.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_LOST = "The relay process has ended; the channels of this node's kernels are cut."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where stock Jupyter clients reach a kernel; the same for the kernel's whole life.

    ``ip`` is what the relay has bound.  What an earlier version did not know has a default.
    """

    ip: str
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    curve_publickey: str
    curve_secretkey: str = field(repr=False)
    journal_socket: str  # where a server on this machine reads what the kernel publishes
    journal_port: int = 0  # where one on another machine does
    journal_token: str = field(default="", repr=False)  # by which it shows that it may
    journal_place: str = ""
    certificate: str = field(default="", repr=False)
    host: str = ""  # the address of ``ip`` for others

    def connection(self, key: str) -> Connection:
        """Return the content of a client's connection file."""
        return Connection(
            ip=self.host or self.ip,
            shell_port=self.shell_port,
            iopub_port=self.iopub_port,
            stdin_port=self.stdin_port,
            control_port=self.control_port,
            hb_port=self.hb_port,
            key=key,
            curve_publickey=self.curve_publickey,
            curve_secretkey=self.curve_secretkey,
            journal_socket=self.journal_socket,
            journal_door=JournalDoor(
                place=self.journal_place,
                host=self.host or self.ip,
                port=self.journal_port,
                certificate=self.certificate,
                token=self.journal_token,
            )
            if self.journal_port
            else None,
        )

    def connection_from_here(self, key: str) -> Connection:
        """Return the same for this node itself, which its own outer address may not reach."""
        return replace(self, host=address_from_here(self.ip)).connection(key)


class RelayClient:
    """Talks to the one relay that listens on ``control``, for the agent that owns it.

    Clients use the address ``host``; by default it is ``bind``, or if that is a wildcard, the
    address of this node.  With an ``orphan_command`` the relay
    becomes that command when this process dies without ``close``; without one it serves on
    and waits for the next agent.  ``on_lost`` is called if the relay ends by itself;
    ``open`` then starts another.
    Every method raises ``RelayFailed``, with a sentence, when the relay refuses or is gone.
    """

    def __init__(
        self,
        control: Path,
        *,
        bind: str = "127.0.0.1",
        host: str = "",
        orphan_command: Sequence[str] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.pid = 0  # of the relay, once open
        self._control = control.absolute()
        self._bind = bind
        self._host = host or address_of(bind)
        self._orphan_command = orphan_command
        self._on_lost = on_lost
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._owned = asyncio.Event()
        self._closing = False
        self._gone = asyncio.Event()
        self._supervisor = Supervisor()

    async def open(self) -> None:
        """Connect to the relay; start it first if there is none, or none any more.

        One of another version makes room: its kernels' channels are opened again as they were.
        """
        for _ in range(_ATTEMPTS):  # it may be about to end just when we come
            reader, self._writer = await self._connect()
            self._gone.clear()
            self._supervisor.task("relay replies", self._read_replies(reader, self._writer))
            try:
                answer = await self._ask("own")
                self.pid = answer["pid"]
                if answer["protocol"] == PROTOCOL:
                    self._owned.set()
                    return
                await self._ask("stop")
            except RelayFailed as error:
                log.info("the relay is not taken over: %s", error)
            await self._until_gone()
        raise RelayFailed(
            f"No relay that serves us could be started; {self._control}.log says why."
        )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await asyncio.to_thread(_ensure_running, self._control, self._orphan_command)
        try:
            return await asyncio.open_unix_connection(self._control, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise RelayFailed(f"The relay does not accept connections: {error}.") from error

    async def open_kernel(
        self,
        kernel_id: str,
        ipc_prefix: str,
        key: str,
        *,
        journal: Path,
        journal_bytes: int,
        endpoint: Endpoint | None = None,
    ) -> Endpoint:
        """Open the kernel's channels; if they are open already, return the same endpoint.

        The kernel program may come before or after this and may come again; a request
        sent meanwhile waits for it.  A new ``ipc_prefix`` is followed.  What the kernel
        publishes is kept in the directory ``journal``, at most ``journal_bytes`` of it.
        With the ``endpoint`` of a relay that has died clients find the channels again.
        """
        request = {
            "kernel_id": kernel_id,
            "ipc_prefix": ipc_prefix,
            "key": key,
            "bind": self._bind if endpoint is None else endpoint.ip,
            "journal": str(journal),
            "journal_bytes": journal_bytes,
            "endpoint": None if endpoint is None else asdict(endpoint),
        }
        try:
            answer = await self._ask("open", **request)
        except RelayLost:
            await self._until_owned()
            answer = await self._ask("open", **request)
        told = {name: answer[name] for name in Endpoint.__slots__ if name in answer}
        return Endpoint(
            **told,
            journal_place=await asyncio.to_thread(place_of, self._control.parent),
            host=self._host if request["bind"] == self._bind else "",
        )

    async def close_kernel(self, kernel_id: str) -> None:
        """Cut the kernel's channels and free its ports; succeed if they are not open."""
        await self._ask("close", kernel_id=kernel_id)

    async def kernels(self) -> list[str]:
        """Return the ids of all kernels whose channels are open."""
        answer = await self._ask("list")
        return list(answer["kernels"])

    async def notify(self, kernel_id: str, text: str, *, dead: bool = False) -> None:
        """Show ``text`` to whoever watches the kernel, under the cell that runs, if any.

        With ``dead`` the text is that cell's error, and those queued behind it are aborted.
        """
        await self._ask("notify", kernel_id=kernel_id, text=text, dead=dead)

    async def close(self, *, stop: bool) -> None:
        """End the relay with all its channels, or leave it to the next agent."""
        self._closing = True
        if self._writer is None:
            return
        try:
            if not self._gone.is_set():
                await self._ask("stop" if stop else "detach")
            if stop:
                await self._until_gone()
        finally:
            await self._supervisor.close()
            self._writer.close()
            self._writer = None

    async def _ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        if self._writer is None or self._writer.is_closing():
            raise RelayLost(_LOST)
        request_id = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            line = json.dumps({"id": request_id, "op": op, **arguments})
            self._writer.write(line.encode() + b"\n")
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                answer = await future
        except TimeoutError as error:
            raise RelayFailed(f"The relay did not answer {op!r} in time.") from error
        finally:
            self._waiting.pop(request_id, None)
        if "error" in answer:
            raise RelayFailed(answer["error"])
        return answer

    async def _read_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                future = self._waiting.get(answer["id"])
                if future is not None and not future.done():
                    future.set_result(answer)
        except ConnectionError:
            pass  # the same as its orderly end: it is gone
        finally:
            writer.close()
            if self._writer is writer:
                self._lose()

    def _lose(self) -> None:
        self._gone.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RelayLost(_LOST))
        owned = self._owned.is_set()
        self._owned.clear()
        if self._on_lost is not None and owned and not self._closing:
            self._on_lost()

    async def _until_owned(self) -> None:
        """Wait until ``open`` has started another relay; raises ``RelayLost`` if it does not."""
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await self._owned.wait()
        except TimeoutError as error:
            raise RelayLost(_LOST) from error

    async def _until_gone(self) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await self._gone.wait()
        except TimeoutError as error:
            raise RelayFailed(f"The relay (process {self.pid}) does not end.") from error


def _ensure_running(control: Path, orphan_command: Sequence[str] | None) -> None:
    """Return when a relay listens; of several callers at a time one starts it."""
    if len(os.fsencode(control)) > MAX_SOCKET_PATH_BYTES:
        raise RelayFailed(
            f"{control} has more than {MAX_SOCKET_PATH_BYTES} bytes, too many for a socket; "
            "choose a shorter state directory for the agent."
        )
    control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_fd = os.open(f"{control}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        _identify(control)
        if not listens(control):
            _start(control, orphan_command)
    finally:
        os.close(lock_fd)


def _identify(control: Path) -> None:
    try:
        ensure_identity(identity_of(control))
    except OSError as error:
        raise RelayFailed(f"The relay gets no certificate: {error}.") from error


def _start(control: Path, orphan_command: Sequence[str] | None) -> None:
    command = [sys.executable, "-m", __package__, "--control", str(control)]
    if orphan_command is not None:
        command += ["--orphan-command", json.dumps(list(orphan_command))]
    log_path = f"{control}.log"
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        done = subprocess.run(  # returns at once: the relay goes to the background
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            env={**os.environ, **_MALLOC},
            start_new_session=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RelayFailed(f"The relay process did not start: {error}.") from error
    finally:
        os.close(log_fd)
    if done.returncode != 0:
        raise RelayFailed(f"The relay process did not start; {log_path} says why.")
