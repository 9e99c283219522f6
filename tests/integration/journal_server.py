"""A small journal server: the relay's side of the reader protocol, and nothing of a relay."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.relay.records import Kind, encode
from backendai_jupyter.supervisor import Supervisor
from tests.integration.door_rig import connection_to


class JournalServer:
    """Serves what ``publish`` was given, from memory; may go away and come back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = connection_to(path)
        self.requests: list[dict[str, Any]] = []
        self.acked: dict[str, int] = {}
        self.state = "idle"
        self._records: list[bytes] = []
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._watchers: set[asyncio.StreamWriter] = set()
        self._supervisor = Supervisor()
        self._server: asyncio.Server | None = None

    @property
    def head(self) -> int:
        return len(self._records)

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Go away, as a relay that is killed does."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._supervisor.close()
        self._writers.clear()
        self._watchers.clear()
        self.path.unlink(missing_ok=True)

    async def publish(self, *frames: bytes, kind: Kind = Kind.IOPUB) -> None:
        async with self._changed:
            self._records.append(b"".join(encode(self.head + 1, kind, frames)))
            self._changed.notify_all()

    def tell(self, state: str, msg_type: str | None, parent: str | None) -> None:
        self.state = state
        for writer in self._watchers:
            writer.write(_line(state=state, type=msg_type, parent=parent))

    def damage(self, seq: int) -> bytes:
        """Let what is sent of a record be none; return what it was, for ``repair``."""
        whole = self._records[seq - 1]
        self._records[seq - 1] = b"X" * len(whole)
        return whole

    def repair(self, seq: int, whole: bytes) -> None:
        self._records[seq - 1] = whole

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        request = json.loads(await reader.readline())
        self.requests.append(request)
        if request["op"] == "watch":
            self._watchers.add(writer)
            writer.write(_line(state=self.state, type=None, parent=None))
            return
        session = request["session"]
        known = session in self.acked
        after = request["after"]
        if after is None:
            after = self.acked.setdefault(session, self.head)
        writer.write(_line(after=after, head=self.head, known=known, state=self.state))
        self._supervisor.task("records", self._send(after, writer))
        while line := await reader.readline():
            said = json.loads(line)
            if "ack" in said:
                self.acked[session] = said["ack"]
            else:  # it pings
                writer.write(b"".join(encode(0, Kind.ALIVE, ())))

    async def _send(self, after: int, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            async with self._changed:
                while self.head <= after:
                    await self._changed.wait()
            writer.write(self._records[after])
            await writer.drain()
            after += 1


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"
