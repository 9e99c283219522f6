"""How soon a stream of messages has its next turn, beside others on the same processor.

A few messages are passed on at once.  A flood rests a moment between two turns, so that many
messages share the cost of one; and longer where somebody else waits for few, whose turn would
else come late.
"""

from __future__ import annotations

_RATE_PER_S = 3000.0  # messages that are no flood yet: a client that asks at once again has 1,500
_MOST = 64.0
_MESSAGE_BYTES = 4096  # a larger message counts as several
_LIVELY_S = 0.1  # after which a stream without messages no longer counts
_SHARE = 0.02  # of the time, for a flood beside a lively stream: some 5 MB/s
_LONGEST_S = 0.2  # a turn that took long had to wait itself, for a disk, say


class Traffic:
    """The streams that share a processor; threads may share it as well."""

    def __init__(self) -> None:
        self._latest: Pace | None = None
        self._at_s = self._another_at_s = -_LIVELY_S  # when any but ``_latest`` was lively

    def note(self, lively: Pace, now_s: float) -> None:
        if lively is not self._latest:
            self._latest, self._another_at_s = lively, self._at_s
        self._at_s = now_s

    def is_lively(self, now_s: float, *, beside: Pace) -> bool:
        """Return whether another stream has lately had a message, and is no flood."""
        at_s = self._another_at_s if beside is self._latest else self._at_s
        return now_s - at_s < _LIVELY_S


class Pace:
    """Of one stream; times are those of ``time.monotonic``.

    ``gather_s`` is how long a flood may rest when nobody else is disturbed.
    """

    def __init__(self, traffic: Traffic, *, gather_s: float = 0.0) -> None:
        self._traffic = traffic
        self._gather_s = gather_s
        self._left = _MOST  # messages that may come before it is a flood
        self._at_s = 0.0
        self._gathers_s = self._turn_s = 0.0  # after and in a flood's last turn

    def asked(self, now_s: float) -> None:
        """Take note that something is asked of the stream, whose answer others must not delay."""
        if self._left + (now_s - self._at_s) * _RATE_PER_S >= 1:
            self._traffic.note(self, now_s)

    def passed(
        self, messages: int, size_bytes: int, *, began_s: float, now_s: float, more: bool = False
    ) -> None:
        """Take note of a turn; ``more``: messages are known to wait for the next one."""
        refilled = self._left + (now_s - self._at_s) * _RATE_PER_S
        self._at_s = now_s
        self._left = max(0.0, min(refilled, _MOST) - messages - size_bytes / _MESSAGE_BYTES)
        is_flood = self._left <= 0
        self._gathers_s = self._gather_s if is_flood and not more else 0.0
        self._turn_s = now_s - began_s if is_flood else 0.0
        if not is_flood:
            self._traffic.note(self, now_s)

    def rest_s(self, now_s: float) -> float:
        """Return how long the next turn should wait; 0 if not at all."""
        rest_s = self._gathers_s
        if self._turn_s and self._traffic.is_lively(now_s, beside=self):
            fair_s = self._turn_s * (1 / _SHARE - 1)
            rest_s = max(rest_s, min(fair_s, _LONGEST_S))
        return max(0.0, self._at_s + rest_s - now_s)
