"""A reader of a kernel's journal, for tests of the relay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.agent.relay.records import HEADER, Kind, decode
from tests.helpers import eventually
from tests.integration.relay_rig import TIMEOUT_S, Client, Rig, iopub_until, is_idle

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One record, with what tests look at."""

    seq: int
    kind: Kind
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]
    route: str = ""

    @property
    def text(self) -> str:
        """What a stream message of the kernel says."""
        return str(self.content.get("text", "")) if self.header["msg_type"] == "stream" else ""


class JournalClient:
    """One attached client session; it acknowledges nothing by itself."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: dict[str, Any]
    ) -> None:
        self.answer = answer
        self._reader = reader
        self._writer = writer

    async def until(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Return the records up to and with the one that is wanted."""
        entries: list[Entry] = []
        async with asyncio.timeout(TIMEOUT_S):
            while not (entries and wanted(entries[-1])):
                entries.append(await self._next())
        return entries

    async def ack(self, seq: int) -> None:
        self._writer.write(json.dumps({"ack": seq}).encode() + b"\n")
        await self._writer.drain()

    async def ended(self) -> None:
        """Return once the relay has closed the connection."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self._reader.read(READ_BYTES):
                pass

    def close(self) -> None:
        self._writer.close()

    async def _next(self) -> Entry:
        head = await self._reader.readexactly(HEADER.size)
        rest = await self._reader.readexactly(HEADER.unpack(head)[3])
        [record] = decode(memoryview(head + rest), check=True)
        return _entry(record.seq, record.kind, [bytes(frame) for frame in record.frames])


class StandstillProbe:
    """Sees when a kernel's journal has stopped to grow."""

    def __init__(self, kernel: Rig, *, above_bytes: int) -> None:
        self._kernel = kernel
        self._above_bytes = above_bytes
        self._sizes = [0] * 30  # the last ones, 10 ms apart

    def __call__(self) -> bool:
        self._sizes = [*self._sizes[1:], stored_bytes(self._kernel)]
        return self._sizes[0] == self._sizes[-1] > self._above_bytes


@asynccontextmanager
async def attached(
    rig: Rig, session: str, after: int | None = None
) -> AsyncIterator[JournalClient]:
    client = await attach(rig.endpoint.journal_socket, session, after)
    try:
        yield client
    finally:
        client.close()


async def attach(path: str, session: str, after: int | None = None) -> JournalClient:
    reader, writer = await asyncio.open_unix_connection(path, limit=READ_BYTES)
    request = {"op": "attach", "session": session, "after": after}
    writer.write(json.dumps(request).encode() + b"\n")
    return JournalClient(reader, writer, json.loads(await reader.readline()))


def idle_of(msg_id: str) -> Callable[[Entry], bool]:
    """Return a test for the idle status that ends the work on request ``msg_id``."""
    return lambda entry: (
        entry.kind is Kind.IOPUB
        and entry.parent.get("msg_id") == msg_id
        and entry.content.get("execution_state") == "idle"
    )


def request_of(msg_id: str) -> Callable[[Entry], bool]:
    """Return a test for the relay's own record of request ``msg_id``."""
    return lambda entry: entry.kind is Kind.REQUEST and entry.header["msg_id"] == msg_id


def text_of(entries: list[Entry]) -> str:
    """Return what was printed."""
    return "".join(entry.text for entry in entries if entry.content.get("name") == "stdout")


def _entry(seq: int, kind: Kind, frames: list[bytes]) -> Entry:
    route = "" if kind is Kind.IOPUB else frames.pop(0).decode(errors="replace")
    if kind is Kind.REQUEST:
        return Entry(seq, kind, json.loads(frames[0]), {}, {}, route)
    header, parent, _, content = (json.loads(frame) for frame in frames[1:5])
    return Entry(seq, kind, header, parent, content, route)


async def ask(client: Client, code: str) -> str:
    """Send an execute_request and return its id; nothing is awaited."""
    return str(await client.do(BlockingKernelClient.execute, code))


async def session_of(client: Client) -> str:
    return str(await client.do(lambda blocking: blocking.session.session))


async def finish(client: Client, msg_id: str) -> None:
    await client.do(iopub_until, is_idle(msg_id))


def has_text(text: str) -> Callable[[Entry], bool]:
    return lambda entry: text in entry.text


async def until_replied(reader: JournalClient, entries: list[Entry]) -> list[Entry]:
    """Return what comes until the reply; the reply and the idle status may overtake each other."""
    if any(entry.header["msg_type"] == "execute_reply" for entry in entries):
        return []
    return await reader.until(lambda entry: entry.header["msg_type"] == "execute_reply")


async def eventually_acked(kernel: Rig, session: str, seq: int) -> None:
    """Wait until the relay has written this position of a session that has left."""
    positions = kernel.journal / "positions.json"

    def acked() -> bool:
        if not positions.exists():
            return False
        sessions = json.loads(positions.read_text())["sessions"]
        return bool(sessions.get(session, {}).get("acked") == seq)

    await eventually(acked)


def stored_bytes(kernel: Rig) -> int:
    return sum(path.stat().st_size for path in kernel.journal.glob("*.seg"))
