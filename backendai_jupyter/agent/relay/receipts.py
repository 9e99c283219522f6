"""What of a kernel's numbered output the journal has, and what is said to the kernel about it.

The kernel's side is ``agent/kernel_delivery.py``.  A message and its number go into the journal
as one record, so that a relay that comes after one that was killed knows where it stopped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from backendai_jupyter.agent.kernel_delivery import MAGIC, MARK, RECEIPT, RESUME, WORD

# The kernel keeps sixteen times as much before it waits.
_MESSAGES, _BYTES = 128, 512 << 10  # after which there is a receipt
_STAMP = struct.Struct("<8sQ")  # program and number
_NOBODY = bytes(8)


class Mark(NamedTuple):
    """Which message of which kernel program, and the first that it could send again."""

    program: bytes
    number: int
    first: int


def read_mark(parts: Sequence[Any], delimiter: int) -> Mark | None:
    """Return the mark of a message; a kernel that numbers nothing gives it none."""
    raw = parts[delimiter - 1] if delimiter else b""
    if not is_mark(raw):
        return None
    return Mark._make(MARK.unpack(raw)[1:])


def is_mark(part: Any) -> bool:
    return isinstance(part, bytes) and len(part) == MARK.size and part.startswith(MAGIC)


class Receipts:
    """Follows the numbers of one kernel; used by one thread."""

    def __init__(self, stamp: bytes = b"") -> None:
        """Go on after ``stamp``, that of the last record in the journal that has one."""
        self._program, self._number = _unpacked(stamp)
        self._messages = self._bytes = 0  # taken since the last receipt
        self._lacks = False
        self._asked = False  # and nothing has come of it yet

    @property
    def numbered(self) -> bool:
        """Whether the kernel has given its output numbers."""
        return self._program != _NOBODY

    def takes(self, mark: Mark, size_bytes: int) -> bytes:
        """Return the stamp of a message for the journal; empty if it is not its turn."""
        is_new = mark.program != self._program
        expected = max(1 if is_new else self._number + 1, mark.first)
        if mark.number != expected:
            self._lacks |= mark.number > expected
            return b""
        self._program, self._number = mark.program, mark.number
        self._messages += _MESSAGES if is_new else 1  # a new one learns at once that we do this
        self._bytes += size_bytes
        self._lacks = self._asked = False
        return _STAMP.pack(self._program, self._number)

    def kernel_came(self) -> None:
        """It may have sent something while nobody took it."""
        self._lacks = True

    def kernel_gone(self) -> None:
        self._asked = False

    def word(self) -> bytes:
        """Return what is to be said once everything taken is in the journal; empty if nothing."""
        if self._lacks and not self._asked:
            self._asked = True
            return self._say(RESUME)
        if self._messages >= _MESSAGES or self._bytes >= _BYTES:
            return self._say(RECEIPT)
        return b""

    def _say(self, what: bytes) -> bytes:
        self._messages = self._bytes = 0
        return WORD.pack(what, self._program, self._number)


def _unpacked(stamp: bytes) -> tuple[bytes, int]:
    program, number = _STAMP.unpack(stamp) if stamp else (_NOBODY, 0)
    return program, number
