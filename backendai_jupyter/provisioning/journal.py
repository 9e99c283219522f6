"""Read a kernel's journal, which its relay serves (``agent/relay/readers.py``).

``JournalReader`` gets all that the kernel publishes, for one client session; ``JournalWatch``
learns only what the kernel does.  Both find their relay again when it has been away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backendai_jupyter.agent.relay.records import Damaged, Kind, Record, decode, missing_bytes
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.journal_link import Link, open_journal

_READ_BYTES = 256 << 10
_MAX_LINE_BYTES = 65_536
_MIN_DELAY_S, _MAX_DELAY_S = 0.02, 0.5  # between two attempts to reach the relay

log = logging.getLogger(__name__)

Where = Callable[[], Connection | None]
"""Returns how a kernel is reached that has a journal; None once the kernel is gone."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What the relay says to a reader: its stream starts after the record ``after``.

    ``head`` is the last record there is, ``known`` whether the session has been here before,
    ``state`` what the kernel does: ``busy``, ``idle`` or ``starting``.
    """

    after: int
    head: int
    known: bool
    state: str


class JournalReader:
    """The records of a kernel for one client session: in order, complete, each once.

    Iterate over it, from one task, for lists of records; their frames are valid until the
    next list is asked for.  At most 256 KiB are read ahead, or one record if it is larger.
    The iteration ends when the kernel is gone, or has another journal.  ``returned`` is called
    when the relay is there again after it had been away.
    """

    def __init__(
        self, session: str, where: Where, returned: Callable[[Attached], None] | None = None
    ) -> None:
        self._session = session
        self._returned = returned
        self._connection = _Connection(where)
        self._last: int | None = None  # handed out
        self._acked = 0
        self._told = 0  # the relay, of what is acknowledged

    async def attach(self, after: int | None = None) -> Attached:
        """Return once the relay has answered; without ``after`` it decides where to start.

        Raises ``Unavailable`` when the kernel is gone.
        """
        request = {"op": "attach", "session": self._session, "after": after}
        while True:
            await self._connection.open(request)
            try:
                answer = await self._connection.read_line()
                attached = Attached(
                    int(answer["after"]),
                    int(answer["head"]),
                    bool(answer["known"]),
                    str(answer["state"]),
                )
            except (OSError, ValueError, LookupError, TypeError) as error:
                await self._connection.lost(error)
                continue
            self._last = attached.after
            self._told = 0
            self._tell()
            return attached

    def __aiter__(self) -> JournalReader:
        return self

    async def __anext__(self) -> list[Record]:
        while True:
            try:
                records = await self._connection.read_records()
            except (OSError, Damaged) as error:
                await self._connection.lost(error)
                try:
                    attached = await self.attach(self._last)
                except Unavailable:
                    raise StopAsyncIteration from None
                if self._returned is not None:
                    self._returned(attached)
            else:
                self._connection.proven()
                self._last = records[-1].seq
                return records

    def ack(self, seq: int) -> None:
        """Say that the client has certainly received every record up to ``seq``."""
        self._acked = max(self._acked, seq)
        self._tell()

    def close(self) -> None:
        """Detach; not while another task iterates."""
        self._connection.close()

    def _tell(self) -> None:
        if self._acked > self._told and self._connection.send(b'{"ack": %d}\n' % self._acked):
            self._told = self._acked


@dataclass(frozen=True, slots=True)
class News:
    """What a kernel does; ``msg_type`` is None where it is not a message that says so."""

    state: str
    msg_type: str | None
    parent_type: str | None


class JournalWatch:
    """What a kernel does, without what it prints: iterate over it, from one task.

    The first, and the first after the relay had been away, is the state at that moment.
    """

    def __init__(self, where: Where) -> None:
        self._connection = _Connection(where)
        self._is_open = False

    def __aiter__(self) -> JournalWatch:
        return self

    async def __anext__(self) -> News:
        while True:
            try:
                if not self._is_open:
                    await self._connection.open({"op": "watch"})
                    self._is_open = True
                line = await self._connection.read_line()
                if "alive" in line:
                    continue
                news = News(str(line["state"]), line["type"], line["parent"])
            except Unavailable:
                raise StopAsyncIteration from None
            except (OSError, ValueError, LookupError, TypeError) as error:
                self._is_open = False
                await self._connection.lost(error)
            else:
                if news.msg_type is not None:
                    self._connection.proven()
                return news

    def close(self) -> None:
        """Leave; not while another task iterates."""
        self._connection.close()


class _Connection:
    """A connection to a journal, and the patience to make it again."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._path: str | None = None  # which names the journal, on whatever way it is reached
        self._link: Link | None = None
        self._delay_s = _MIN_DELAY_S
        self.intake = Intake()

    async def open(self, request: dict[str, Any]) -> None:
        """Connect and send ``request``, as often as it takes.

        Raises ``Unavailable`` when the kernel is gone, or has another journal than before.
        """
        while True:
            connection = self._where()
            if connection is None or self._path not in {None, connection.journal_socket}:
                raise Unavailable("The journal of a kernel that is gone cannot be read.")
            self._path = connection.journal_socket
            self.intake = Intake()
            try:
                self._link = await open_journal(connection)
                if self._link.send(json.dumps(request).encode() + b"\n"):
                    return
                await self.lost(ConnectionResetError("it takes nothing"))
            except OSError as error:
                await self.lost(error)

    async def read_records(self) -> list[Record]:
        """Return the records that are there, at least one; raises ``OSError`` or ``Damaged``."""
        while not (records := self.intake.records()):
            await self._fill(missing_bytes(self.intake.data))
        return records

    async def read_line(self) -> dict[str, Any]:
        """Return the next line; raises ``OSError`` or ``ValueError``."""
        while (line := self.intake.line()) is None:
            await self._fill(1)
        return line

    async def _fill(self, needed_bytes: int) -> None:
        if self._link is None:
            raise ConnectionResetError("it was closed")
        size_bytes = await self._link.receive(self.intake.room(needed_bytes))
        if not size_bytes:
            raise ConnectionResetError("the relay has closed it")
        self.intake.received(size_bytes)

    def send(self, data: bytes) -> bool:
        """Send ``data``; False if that must wait."""
        return self._link is not None and self._link.send(data)

    async def lost(self, error: Exception) -> None:
        """Give the connection up and wait before it is made again: longer each time."""
        self.close()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        if level == logging.DEBUG and self._delay_s < _MAX_DELAY_S <= self._delay_s * 2:
            level = logging.WARNING  # once: it stays away
        log.log(level, "the journal %s: %r", self._path, error)
        await asyncio.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, _MAX_DELAY_S)

    def proven(self) -> None:
        """Take note that the connection is of use."""
        self._delay_s = _MIN_DELAY_S

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class Intake:
    """A buffer that is filled from a socket and emptied by whole lines or whole records."""

    def __init__(self, size_bytes: int = _READ_BYTES) -> None:
        self._size_bytes = size_bytes
        self._buffer = _new_buffer(size_bytes)
        self._start = self._end = 0

    @property
    def data(self) -> memoryview:
        """What has been received and not taken; valid until ``room`` is called."""
        return self._buffer[self._start : self._end]

    def room(self, needed_bytes: int) -> memoryview:
        """Return where to receive to, at least ``needed_bytes``; overwrites what was taken."""
        held = self.data
        size_bytes = max(self._size_bytes, len(held) + needed_bytes)
        is_other = size_bytes != len(self._buffer)
        if is_other:
            self._buffer = _new_buffer(size_bytes)
        if is_other or self._start:  # else nothing moves: a large record comes in many pieces
            self._buffer[: len(held)] = held
            self._start, self._end = 0, len(held)
        return self._buffer[self._end :]

    def received(self, size_bytes: int) -> None:
        self._end += size_bytes

    def line(self) -> dict[str, Any] | None:
        """Take a line of JSON; None if there is no whole one yet, ``Damaged`` if it is none."""
        text, newline, _ = bytes(self.data[:_MAX_LINE_BYTES]).partition(b"\n")
        if not newline and len(text) == _MAX_LINE_BYTES:
            raise Damaged("a line without an end")
        if not newline:
            return None
        self._start += len(text) + 1
        line: dict[str, Any] = json.loads(text)
        return line

    def records(self) -> list[Record]:
        """Take the whole records of the journal that are there; valid until ``room`` is called."""
        records = list(decode(self.data))
        self._start += sum(record.size_bytes for record in records)
        return [record for record in records if record.kind is not Kind.ALIVE]


def _new_buffer(size_bytes: int) -> memoryview:
    """Return memory that the system gives page by page as it is written: most kernels are idle."""
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
