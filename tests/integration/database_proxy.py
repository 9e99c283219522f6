"""A way to a database on which the end of a transaction can get lost."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_COMMIT = b"COMMIT\0"


class Loss(enum.Enum):
    """What becomes of the next COMMIT; the connection is cut in either case."""

    OF_THE_COMMIT = enum.auto()
    OF_ITS_ANSWER = enum.auto()


class ProxyThatLosesCommits:
    """Passes on everything, but for one commit after ``loses`` was set."""

    def __init__(self, target_port: int) -> None:
        self.loses: Loss | None = None
        self.refuses = False  # whether nobody is let in any more after a loss
        self.port = 0
        self._target_port = target_port
        self._closed = False
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @classmethod
    @asynccontextmanager
    async def before(cls, target_port: int) -> AsyncIterator[ProxyThatLosesCommits]:
        proxy = cls(target_port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for client in proxy._open.values():
                client.transport.abort()
            await asyncio.gather(*proxy._open, return_exceptions=True)

    def let_in(self) -> None:
        self._closed = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.close()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self._target_port)
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        answers = asyncio.create_task(_copy(back, writer))
        try:
            while data := await reader.read(65536):
                if _COMMIT in data and self.loses is not None:
                    await self._lose(data, answers, back, forth)
                    return
                forth.write(data)
        finally:
            answers.cancel()
            writer.close()
            forth.close()

    async def _lose(
        self,
        data: bytes,
        answers: asyncio.Task[None],
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        loses, self.loses = self.loses, None
        self._closed = self.refuses
        if loses is Loss.OF_ITS_ANSWER:
            answers.cancel()
            await asyncio.wait([answers])
            forth.write(data)
            await back.read(65536)  # it is committed now


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
