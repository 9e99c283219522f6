"""How much a websocket client has been sent without having confirmed it.

Every websocket client answers a ping with the ping's own bytes, after it has received all
that was sent before: so a pong says what has certainly arrived.  What is unconfirmed when a
connection is lost must be sent again and may come twice, so there is never much of it: nothing
more is sent while a pong is overdue.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LIMIT_BYTES = 8 << 20  # labextension/src/had.ts remembers so much
_EVERY_S = 0.005  # a ping, while others are unanswered
_MUCH_MESSAGES, _MUCH_BYTES = 16, 64 << 10  # without a ping behind it
# A pong is overdue after some multiple of what the fastest of late took; little may be sent
# all the same, for one that is only slow to answer.
_OVERDUE = 4
_OVERDUE_S = 0.02
_OVERDUE_MESSAGES, _OVERDUE_BYTES = 32, 512 << 10
_REMEMBERED_S = 10.0
_PAYLOAD = struct.Struct(">4sQ")
_MARK = b"baj1"  # jupyter_server's own pings are empty


class _Ping(NamedTuple):
    """What had been written when it was sent."""

    payload: bytes
    seq: int
    messages: int
    size_bytes: int
    sent_s: float


class Window:
    """Counts what is written and what is confirmed, and the journal's records that it stands for.

    ``clock`` returns seconds.
    """

    def __init__(
        self, limit_bytes: int = LIMIT_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._seq = 0  # of the last record that was dealt with
        self._written_messages = self._written_bytes = 0
        self._confirmed = _Ping(b"", 0, 0, 0, 0.0)
        self._pings: deque[_Ping] = deque()
        self._count = 0
        self._pinged_messages = self._pinged_bytes = 0
        self._trip = Fastest()
        self._held = False
        self._changed = asyncio.Event()

    @property
    def unconfirmed_bytes(self) -> int:
        return self._written_bytes - self._confirmed.size_bytes

    @property
    def confirmed_seq(self) -> int:
        """The last record up to which nothing can be missing to the client."""
        return self._confirmed.seq if self.unconfirmed_bytes else self._seq

    def wrote(self, size_bytes: int) -> None:
        """Take note of a message that was written."""
        self._written_messages += 1
        self._written_bytes += size_bytes

    def dealt_with(self, seq: int) -> None:
        """Take note that a record was written before, or concerns others."""
        self._seq = seq

    def has_room(self, size_bytes: int) -> bool:
        """Return whether so much may be written; anything may when nothing is unconfirmed."""
        if self._held:
            return False
        if not self.unconfirmed_bytes:
            return True
        return self.unconfirmed_bytes + size_bytes <= self._limit_bytes and not self._is_overdue()

    async def room(self, size_bytes: int) -> None:
        """Wait until a good part of the window is free, and so much in it."""
        most_bytes = max(0, min(self._limit_bytes // 2, self._limit_bytes - size_bytes))
        while self._held or self.unconfirmed_bytes > most_bytes or self._is_overdue():
            self._changed.clear()
            await self._changed.wait()

    def hold(self) -> None:
        """Have no room any more, whatever is confirmed."""
        self._held = True

    async def settled(self) -> None:
        """Wait until everything is confirmed."""
        while self.unconfirmed_bytes:
            self._changed.clear()
            await self._changed.wait()

    @property
    def has_much_to_confirm(self) -> bool:
        """Whether so much was written since the last ping that the next should not wait."""
        messages = self._written_messages - self._pinged_messages
        return messages >= _MUCH_MESSAGES or self._written_bytes - self._pinged_bytes >= _MUCH_BYTES

    def ping(self) -> bytes | None:
        """Return the payload of a ping that should be sent now; None if none should.

        That is also so where the pong of another must come first.
        """
        now_s = self._clock()
        if self._written_bytes == self._pinged_bytes:
            return None
        if self._pings and now_s - self._pings[-1].sent_s < _EVERY_S:
            return None
        self._count += 1
        payload = _PAYLOAD.pack(_MARK, self._count)
        written = self._written_messages, self._written_bytes
        self._pings.append(_Ping(payload, self._seq, *written, now_s))
        self._pinged_messages, self._pinged_bytes = written
        return payload

    def pong(self, payload: bytes) -> bool:
        """Take note of a pong; return whether it answers a ping of ours.

        A client that is slow may answer only the last of several.
        """
        if all(ping.payload != payload for ping in self._pings):
            return False
        while self._pings:
            self._confirmed = self._pings.popleft()
            if self._confirmed.payload == payload:
                break
        now_s = self._clock()
        self._trip.took(now_s - self._confirmed.sent_s, now_s)
        self._changed.set()
        return True

    def _is_overdue(self) -> bool:
        messages = self._written_messages - self._confirmed.messages
        if messages < _OVERDUE_MESSAGES and self.unconfirmed_bytes < _OVERDUE_BYTES:
            return False
        limit_s = max(_OVERDUE_S, _OVERDUE * self._trip.shortest_s)
        return bool(self._pings) and self._clock() - self._pings[0].sent_s > limit_s


class Fastest:
    """The shortest of the times that something took lately."""

    def __init__(self) -> None:
        self.shortest_s = 0.0
        self._shortest_since_s = 0.0  # of those that will count later
        self._since_s: float | None = None

    def took(self, taken_s: float, now_s: float) -> None:
        if self._since_s is None:
            self.shortest_s, self._shortest_since_s, self._since_s = taken_s, taken_s, now_s
        elif now_s - self._since_s > _REMEMBERED_S:
            self.shortest_s, self._since_s = min(self._shortest_since_s, taken_s), now_s
            self._shortest_since_s = taken_s
        else:
            self.shortest_s = min(self.shortest_s, taken_s)
            self._shortest_since_s = min(self._shortest_since_s, taken_s)
