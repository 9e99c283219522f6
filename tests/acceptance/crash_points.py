"""The other end of BACKENDAI_POINTS: hears which steps a process reaches, and holds it at one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class Points:
    """A unix socket on which processes say what they reach; one point at a time is armed.

    Only the first to reach an armed point is held there, until ``release``.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held_pid = 0  # of the process that is held, or was; 0: none was yet
        self._armed = ""
        self._is_held = asyncio.Event()
        self._released = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def listen(cls, path: Path) -> AsyncIterator[Points]:
        points = cls()
        server = await asyncio.start_unix_server(points._serve, path)
        try:
            yield points
        finally:
            points.release()
            server.close()

    def arm(self, point: str) -> None:
        self._armed = point
        self.held_pid = 0
        self._is_held.clear()
        self._released.clear()

    def release(self) -> None:
        """Let whoever is held go on, and hold nobody any more."""
        self._armed = ""
        self._released.set()

    async def until_held(self, *, within_s: float) -> bool:
        """Whether a process has come to the armed point in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_held.wait()
        return self._is_held.is_set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(await reader.readline())
            self.seen.append(said["point"])
            if said["point"] == self._armed and not self._is_held.is_set():
                self.held_pid = said["pid"]
                self._is_held.set()
                await self._released.wait()
            writer.write(b"\n")
            await writer.drain()
        writer.close()
