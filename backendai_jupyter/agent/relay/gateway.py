"""The door for those who read journals from another machine: TLS on TCP, then a token.

The first line is ``{"token": ...}``.  The kernel whose token it is lets its journal be read: from
then on bytes pass both ways between the connection and the kernel's unix socket, which speaks
the protocol of ``readers.py``.  Nothing is read from the journal before the former piece has
found room, so a reader that stops reading costs a few buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import resource
import secrets
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backendai_jupyter.errors import RelayFailed
from backendai_jupyter.supervisor import Supervisor, race

MAX_NEWCOMERS = 64  # who have not shown a token yet; one more, and the oldest must go
INTRODUCTION_S = 5.0  # for handshake and token
_END_OF_CERTIFICATE = "-----END CERTIFICATE-----\n"
_MAX_LINE_BYTES = 4096
_PIECE_BYTES = 128 << 10
_CLOSE_S = 5.0  # for what is under way to a reader that is turned away
_FULL_PAUSE_S = 0.1
_FILES_FOR_OTHERS = 60  # without which ZeroMQ could not serve the channels
_MALFORMED = (ValueError, LookupError, TypeError)  # what a line that is no introduction raises
_SILENCE_S = 10.0  # after which a reader is dead: it sends something every three seconds

log = logging.getLogger(__name__)


def identity_of(control: Path) -> Path:
    """Return where the certificate and private key of the relay on ``control`` are."""
    return control.with_name(f"{control.name}.pem")


def certificate_in(identity: Path) -> str:
    """Return the certificate, as PEM, that is there beside its key; empty if they are not."""
    try:
        certificate, end, key = identity.read_text().partition(_END_OF_CERTIFICATE)
    except FileNotFoundError:
        return ""
    return certificate + end if end and "PRIVATE KEY" in key else ""


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The journal of one kernel."""

    socket: Path
    token: str = field(repr=False)


class Gateway:
    """Listens once for each address that channels are bound to, always on the same port."""

    def __init__(self, control: Path, supervisor: Supervisor) -> None:
        self.certificate = ""  # by which readers know it, once it listens
        self._identity = identity_of(control)
        self._ports = control.with_name(f"{control.name}.ports")
        self._supervisor = supervisor
        self._listening: dict[str, socket.socket] = {}
        self._accepting: list[asyncio.Task[Any]] = []
        self._journals: dict[str, _Guarded] = {}
        self._newcomers: dict[asyncio.Task[Any], None] = {}
        self._context: ssl.SSLContext | None = None
        self._refused = 0

    def listen(self, bind: str) -> int:
        """Return the port on the address ``bind``; raises ``RelayFailed``.

        It is the one that an earlier relay had, unless another program has taken that.
        """
        if bind not in self._listening:
            if self._context is None:
                self._context = _server_context(self._identity)
                self.certificate = certificate_in(self._identity)
            self._listening[bind] = listening = _bound(bind, self._known_ports().get(bind, 0))
            self._remember(bind, _port(listening))
            accepting = self._accept(listening, self._context)
            self._accepting.append(self._supervisor.task(f"gateway on {bind}", accepting))
        return _port(self._listening[bind])

    def admit(self, kernel_id: str, journal: Path, token: str) -> str:
        """Let a journal be read by whoever has its token, which is returned.

        Without a ``token`` of an earlier relay one is made.
        """
        if kernel_id not in self._journals:
            token = token or f"{kernel_id}:{secrets.token_hex(32)}"
            self._journals[kernel_id] = _Guarded(journal, token)
        return self._journals[kernel_id].token

    def dismiss(self, kernel_id: str) -> None:
        """Let nobody in any more; those who read the journal leave when it is closed."""
        self._journals.pop(kernel_id, None)

    async def close(self) -> None:
        """Listen no more; connections end with the supervisor's tasks."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self._listening.values():
            listening.close()

    async def _accept(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # it has gone again, or there are too many files
                log.debug("nobody is let in: %s", error)
                await asyncio.sleep(_FULL_PAUSE_S)
                continue
            if connection.fileno() >= most_files - _FILES_FOR_OTHERS:
                connection.close()
                continue
            if len(self._newcomers) >= MAX_NEWCOMERS:
                oldest = next(iter(self._newcomers))
                del self._newcomers[oldest]
                oldest.cancel()
            task = self._supervisor.task("reader", self._serve(connection, context))
            self._newcomers[task] = None
            task.add_done_callback(self._forget_newcomer)
            await asyncio.sleep(0)  # it begins, and so will close what it was given

    async def _serve(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        try:
            async with asyncio.timeout(INTRODUCTION_S):
                reader, writer = await _secured(connection, context)
                try:
                    journal = self._journal_for(await reader.readuntil(b"\n"))
                except BaseException:
                    writer.transport.abort()
                    raise
        except (OSError, EOFError, asyncio.LimitOverrunError, *_MALFORMED) as error:
            self._refuse(error)
            return
        self._forget_newcomer(asyncio.current_task())
        try:
            await _carry(journal, reader, writer)
        except (OSError, EOFError) as error:
            log.debug("a reader has gone: %r", error)
            writer.transport.abort()
        finally:
            writer.close()

    def _forget_newcomer(self, task: asyncio.Task[Any] | None) -> None:
        """Count it no longer among those who have not shown a token."""
        if task is not None:
            self._newcomers.pop(task, None)

    def _journal_for(self, line: bytes) -> Path:
        """Raise ``PermissionError`` for a token that opens nothing."""
        token = str(json.loads(line)["token"])
        guarded = self._journals.get(token.partition(":")[0])
        expected = secrets.token_hex() if guarded is None else guarded.token
        if not hmac.compare_digest(token.encode(), expected.encode()) or guarded is None:
            raise PermissionError("no journal has this token")
        return guarded.socket

    def _refuse(self, error: Exception) -> None:
        """Log the first, second, fourth, eighth ...: strangers must not fill a disk."""
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:
            kind = type(error).__name__
            log.warning("%d readers were turned away, the last for %s", self._refused, kind)

    def _known_ports(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return {str(k): int(v) for k, v in json.loads(self._ports.read_text()).items()}
        return {}

    def _remember(self, bind: str, port: int) -> None:
        known = self._known_ports()
        if known.get(bind) == port:
            return
        partial = self._ports.with_name(f"{self._ports.name}.partial")
        try:
            partial.write_text(json.dumps({**known, bind: port}))
            partial.rename(self._ports)
        except OSError as error:
            log.warning("a relay after this one will have another port than %d: %s", port, error)


async def _secured(
    connection: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Shake hands, and own ``connection`` whatever comes of it; raises ``OSError``."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES, loop=loop)
    transport, protocol = await loop.connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
        connection,
        ssl=context,
        ssl_handshake_timeout=INTRODUCTION_S,
        ssl_shutdown_timeout=_CLOSE_S,
    )
    transport.set_write_buffer_limits(_PIECE_BYTES)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _carry(path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes both ways until either side has ended, or the reader is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as journal:
        journal.setblocking(False)
        await asyncio.get_running_loop().sock_connect(journal, str(path))
        await race(_carry_up(reader, journal), _carry_down(journal, writer))


async def _carry_up(reader: asyncio.StreamReader, journal: socket.socket) -> None:
    """Raise ``TimeoutError`` when the reader is dead.

    TCP would not say so: it waits for minutes, or ends a connection that is only not read.
    """
    loop = asyncio.get_running_loop()
    while True:
        async with asyncio.timeout(_SILENCE_S):
            piece = await reader.read(_MAX_LINE_BYTES)
        if not piece:
            return
        await loop.sock_sendall(journal, piece)


async def _carry_down(journal: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(journal, _PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # others have their turn, however much there is to read


def _server_context(identity: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody resumes a TLS session here
    try:
        context.load_cert_chain(identity)
    except OSError as error:
        raise RelayFailed(f"The relay cannot use its certificate {identity}: {error}.") from error
    return context


def _bound(bind: str, port: int) -> socket.socket:
    """Return a listening socket, on another port if this one is taken."""
    try:
        return _listener(bind, port)
    except OSError as error:
        if not port:
            raise RelayFailed(f"The relay cannot listen on {bind}: {error}.") from error
        log.error("readers of journals find port %d of %s no more: %s", port, bind, error)
    return _bound(bind, 0)


def _listener(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    host = "" if bind == "*" else bind
    listening = socket.create_server((host, port), family=family, backlog=MAX_NEWCOMERS)
    listening.setblocking(False)
    return listening


def _port(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])
