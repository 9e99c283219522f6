"""A network link between a client and a server that can be lost without anybody being told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_PIECE_BYTES = 64 << 10
_UNDER_WAY_S = 0.5


class LinkThatVanishes:
    """Forwards TCP connections until it vanishes: no byte comes through then, and no FIN.

    Connections that are made later go through.
    """

    def __init__(self, url: str) -> None:
        """``url`` is the server's."""
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._path = parts.path
        self._open: list[asyncio.StreamWriter] = []
        self._down: set[asyncio.Task[None]] = set()
        self._up: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[LinkThatVanishes]:
        link = cls(url)
        link._server = await asyncio.start_server(link._connect, "127.0.0.1")
        try:
            yield link
        finally:
            link._server.close()
            await link.vanish(at_once=True)
            link.forget()

    @property
    def url(self) -> str:
        """What a client uses in place of the server's."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"

    async def vanish(self, *, at_once: bool = False) -> None:
        """Stop forwarding; both ends keep a connection on which nothing happens.

        Unless it is ``at_once``, what the client has got is still confirmed by its pongs.
        """
        await _end(self._down)
        if self._up and not at_once:
            await asyncio.wait(self._up, timeout=_UNDER_WAY_S)
        await _end(self._up)

    async def mute(self) -> None:
        """Let nothing through any more from the client to the server, not even a pong."""
        await _end(self._up)

    def forget(self) -> None:
        """Close all connections at both ends, as what no longer knows them does."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is away
            writer.close()
            return
        self._open += [writer, far_writer]
        self._down.add(asyncio.create_task(_forward(far_reader, writer)))
        self._up.add(asyncio.create_task(_forward(reader, far_writer)))


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(_PIECE_BYTES):
        sink.write(piece)
        await sink.drain()
    sink.close()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
