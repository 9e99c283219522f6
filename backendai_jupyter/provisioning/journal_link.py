"""A connection to a kernel's journal: the relay's unix socket on its own machine, else TLS.

The relay's certificate is pinned: no other is trusted, and names and dates in it mean nothing.
A dead link says nothing.  So each side hears from the other every few seconds: the reader asks
whether the relay is there, whether or not it reads, and the relay answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path

from backendai_jupyter.agent.relay.address import place_of
from backendai_jupyter.domain.wire import Connection, JournalDoor

_OPEN_WITHIN_S = 10.0
_PING_EVERY_S = 3.0
_SILENCE_S = 8.0  # after which the link is dead
_PING = b'{"op": "ping"}\n'
_TURN_BYTES = 256 << 10  # to read before others have their turn


class Link:
    """An open connection to the relay's unix socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._unsent = b""

    async def receive(self, room: memoryview) -> int:
        """Fill the start of ``room`` and return its size, 0 at the end; raises ``OSError``."""
        return await asyncio.get_running_loop().sock_recv_into(self._socket, room)

    def send(self, data: bytes) -> bool:
        """Send ``data``, the rest of it later; False if it must wait for what was sent before.

        The end of a connection is not seen here: ``receive`` says so.
        """
        self._flush()
        if self._unsent:
            return False
        self._unsent = data
        self._flush()
        return True

    def close(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        if self._unsent:
            with contextlib.suppress(OSError):
                self._unsent = self._unsent[self._socket.send(self._unsent) :]


class _SecureLink(Link):
    """A connection by TLS; ``receive`` raises ``TimeoutError`` when it is dead."""

    def __init__(self, connected: ssl.SSLSocket) -> None:
        super().__init__(connected)
        self._secured = connected
        self._next_ping: asyncio.TimerHandle | None = None

    async def begin(self, introduction: bytes) -> None:
        """Shake hands and say who we are; raises ``OSError``."""
        while True:
            try:
                self._secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                await _until_readable(self._secured)
        self.send(introduction)
        self._plan_ping()

    def close(self) -> None:
        if self._next_ping is not None:
            self._next_ping.cancel()
        super().close()

    async def receive(self, room: memoryview) -> int:
        while True:
            try:
                return self._read(room[:_TURN_BYTES])
            except ssl.SSLWantReadError:
                async with asyncio.timeout(_SILENCE_S):
                    await _until_readable(self._secured)

    def _read(self, room: memoryview) -> int:
        """Take what is there: TLS hands it out in pieces of 16 KiB."""
        size_bytes = self._secured.recv_into(room)
        with contextlib.suppress(ssl.SSLWantReadError):
            while size_bytes < len(room):
                more_bytes = self._secured.recv_into(room[size_bytes:])
                if not more_bytes:
                    break
                size_bytes += more_bytes
        return size_bytes

    def _plan_ping(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_ping = loop.call_later(_PING_EVERY_S, self._ping)

    def _ping(self) -> None:
        self.send(_PING)
        self._plan_ping()


async def open_journal(connection: Connection) -> Link:
    """Return a connection whose next line says what is wanted; raises ``OSError``."""
    door = _door_to(connection)
    if door is not None:
        async with asyncio.timeout(_OPEN_WITHIN_S):
            return await _open_there(door)
    here = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        here.setblocking(False)
        await asyncio.get_running_loop().sock_connect(here, str(connection.journal_socket))
    except BaseException:
        here.close()
        raise
    return Link(here)


def open_journal_blocking(connection: Connection, *, timeout_s: float) -> socket.socket:
    """Do the same without an event loop; each read may take ``timeout_s``."""
    door = _door_to(connection)
    if door is not None:
        raw = socket.create_connection((door.host, door.port), timeout_s)
        there = _context(door).wrap_socket(raw)
        there.sendall(_introduction(door))
        return there
    here = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        here.settimeout(timeout_s)
        here.connect(str(connection.journal_socket))
    except OSError:
        here.close()
        raise
    return here


def _door_to(connection: Connection) -> JournalDoor | None:
    """Return how to reach the relay on its machine; None if that is this one."""
    door, path = connection.journal_door, connection.journal_socket
    if door is None or path is None:
        return None
    if door.place and door.place == place_of(Path(path).parent):
        return None
    return door


async def _open_there(door: JournalDoor) -> _SecureLink:
    connected = await _connected(door.host, door.port)
    secured = _context(door).wrap_socket(connected, do_handshake_on_connect=False)
    link = _SecureLink(secured)
    try:
        await link.begin(_introduction(door))
    except BaseException:
        link.close()
        raise
    return link


async def _connected(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    connected = socket.socket(family, kind, protocol)
    try:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected


def _context(door: JournalDoor) -> ssl.SSLContext:
    """Trust the relay's certificate and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=door.certificate)
    return context


def _introduction(door: JournalDoor) -> bytes:
    return json.dumps({"token": door.token}).encode() + b"\n"


async def _until_readable(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    is_readable: asyncio.Future[None] = loop.create_future()
    descriptor = connected.fileno()
    loop.add_reader(descriptor, _wake, is_readable)
    try:
        await is_readable
    finally:
        loop.remove_reader(descriptor)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
