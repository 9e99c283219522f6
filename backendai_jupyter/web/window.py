"""How much a websocket client has been sent without having confirmed it.

Every websocket client answers a ping with the ping's own bytes, after it has received all
that was sent before: so a pong says what has certainly arrived.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque

LIMIT_BYTES = 8 << 20
_EVERY_S = 0.005  # a ping, while others are unanswered
_PAYLOAD = struct.Struct(">4sQ")
_MARK = b"baj1"  # jupyter_server's own pings are empty


class Window:
    """Counts bytes written and bytes confirmed, and the journal's records that they stand for."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._seq = 0  # of the last record that was dealt with
        self._written_bytes = 0
        self._confirmed_seq = 0
        self._confirmed_bytes = 0
        self._pings: deque[tuple[bytes, int, int]] = deque()  # payload, seq and bytes before it
        self._count = 0
        self._pinged_bytes = 0
        self._pinged_at = 0.0
        self._confirmed = asyncio.Event()

    @property
    def unconfirmed_bytes(self) -> int:
        return self._written_bytes - self._confirmed_bytes

    @property
    def confirmed_seq(self) -> int:
        """The last record up to which nothing can be missing to the client."""
        return self._confirmed_seq if self.unconfirmed_bytes else self._seq

    def wrote(self, size_bytes: int) -> None:
        self._written_bytes += size_bytes

    def dealt_with(self, seq: int) -> None:
        """Take note that a record was written before, or concerns others."""
        self._seq = seq

    def has_room(self, size_bytes: int) -> bool:
        """Return whether so much may be written; anything may when nothing is unconfirmed."""
        return not self.unconfirmed_bytes or (
            self.unconfirmed_bytes + size_bytes <= self._limit_bytes
        )

    async def room(self, size_bytes: int) -> None:
        """Wait until a good part of the window is free, and so much in it."""
        most_bytes = max(0, min(self._limit_bytes // 2, self._limit_bytes - size_bytes))
        while self.unconfirmed_bytes > most_bytes:
            self._confirmed.clear()
            await self._confirmed.wait()

    def ping(self, now_s: float, *, urgent: bool = False) -> bytes | None:
        """Return the payload of a ping that should be sent now; None if none should."""
        if self._written_bytes == self._pinged_bytes:
            return None
        if self._pings and not urgent and now_s - self._pinged_at < _EVERY_S:
            return None
        self._count += 1
        payload = _PAYLOAD.pack(_MARK, self._count)
        self._pings.append((payload, self._seq, self._written_bytes))
        self._pinged_at, self._pinged_bytes = now_s, self._written_bytes
        return payload

    def pong(self, payload: bytes) -> bool:
        """Take note of a pong; return whether it answers a ping of ours.

        A client that is slow may answer only the last of several.
        """
        if all(sent != payload for sent, _, _ in self._pings):
            return False
        while self._pings:
            sent, self._confirmed_seq, self._confirmed_bytes = self._pings.popleft()
            if sent == payload:
                break
        self._confirmed.set()
        return True
