"""A firewall or load balancer between a client and a server, as far as it is a nuisance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MiddleboxThatForgetsFlows:
    """Forwards TCP; a connection on which nothing was said for ``idle_s`` is forgotten.

    Nobody is told: what is sent on it later vanishes.  New connections go through.
    """

    def __init__(self, target_port: int, idle_s: float) -> None:
        self.port = 0
        self.remembered = 0  # connections
        self._target_port = target_port
        self._idle_s = idle_s
        self._flows: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @classmethod
    @asynccontextmanager
    async def before(
        cls, target_port: int, *, idle_s: float
    ) -> AsyncIterator[MiddleboxThatForgetsFlows]:
        box = cls(target_port, idle_s)
        server = await asyncio.start_server(box._serve, "127.0.0.1", 0)
        box.port = server.sockets[0].getsockname()[1]
        try:
            yield box
        finally:
            server.close()
            for writer in box._flows.values():
                writer.transport.abort()
            await asyncio.gather(*box._flows, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows[task] = writer
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        flow = _Flow(self._idle_s)
        self.remembered += 1
        try:
            both = (flow.copy(reader, far_writer), flow.copy(far_reader, writer))
            ends = await asyncio.gather(*both, return_exceptions=True)
            self.remembered -= 1
            if flow.is_forgotten and not any(isinstance(end, OSError) for end in ends):
                await reader.read(-1)  # whatever the client still sends
        finally:
            writer.close()
            far_writer.close()
            del self._flows[task]


class _Flow:
    """Both directions of a connection: what is said in one keeps the other alive."""

    def __init__(self, idle_s: float) -> None:
        self.is_forgotten = False
        self._idle_s = idle_s
        self._heard = asyncio.get_running_loop().time()

    async def copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward until either end hangs up, or both have been silent for too long."""
        while (data := await self._read(source)) and not self.is_forgotten:
            sink.write(data)
            await sink.drain()
        if not self.is_forgotten:
            sink.close()

    async def _read(self, source: asyncio.StreamReader) -> bytes:
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(source.read(65536))
        while not reading.done():
            left_s = self._heard + self._idle_s - loop.time()
            if left_s <= 0 or self.is_forgotten:
                self.is_forgotten = True
                reading.cancel()
                await asyncio.wait([reading])
                return b""
            await asyncio.wait([reading], timeout=left_s)
        self._heard = loop.time()
        return reading.result()
