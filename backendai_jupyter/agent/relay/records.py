"""The records of a kernel's journal: the same bytes on disk and on the way to a reader.

A record is a header (``HEADER``), the size of each frame as a 32-bit number, and the frames.
Numbers are little-endian.  ``seq`` counts a journal's records from 1 without gaps.  Output that
its kernel has numbered has a stamp as its first frame (``receipts.py``), and a kind of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("<4sBxHIIQ")  # magic, kind, frames, bytes of the rest, its CRC-32, seq
MAGIC = b"BAJ1"
MAX_PAYLOAD_BYTES = (1 << 32) - 1

Frame = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a record holds.

    ``IOPUB`` has the frames of a message from its signature on: signature, header, parent
    header, metadata, content, buffers.  ``SHELL``, ``STDIN`` and ``CONTROL`` are messages of
    the kernel to one client, whose routing id comes before the signature.  ``REQUEST`` is an
    execute_request on its way to the kernel: the client's routing id and the header.  ``ALIVE``
    is in no journal and has no number: it answers a reader that asks whether the relay is there.
    """

    IOPUB = 1
    SHELL = 2
    STDIN = 3
    CONTROL = 4
    REQUEST = 5
    ALIVE = 6


_STAMPED = 7  # IOPUB with a stamp
_KINDS = frozenset({*Kind, _STAMPED})


class Damaged(ValueError):
    """These bytes are no record, or no longer the one that was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """``frames`` are views into the bytes that were fed to the decoder."""

    seq: int
    kind: Kind
    frames: tuple[memoryview, ...]
    size_bytes: int  # of the whole record
    stamp: bytes = b""


def encode(seq: int, kind: Kind, frames: Sequence[Frame], stamp: bytes = b"") -> list[Frame]:
    """Return the pieces of a record, to be written one after the other; frames are not copied."""
    written: int = kind
    if stamp:
        written, frames = _STAMPED, [stamp, *frames]
    sizes = struct.pack(f"<{len(frames)}I", *(len(frame) for frame in frames))
    checksum, length = zlib.crc32(sizes), len(sizes)
    for frame in frames:
        checksum, length = zlib.crc32(frame, checksum), length + len(frame)
    if length > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {length} bytes is too large for a record")
    return [HEADER.pack(MAGIC, written, len(frames), length, checksum, seq), sizes, *frames]


def decode(data: memoryview, *, check: bool = False) -> Iterator[Record]:
    """Yield the whole records at the start of ``data``; an unfinished one at its end is left.

    With ``check`` the checksums are compared.  Raises ``Damaged`` at the first byte that no
    record begins with.
    """
    start = 0
    while len(data) - start >= HEADER.size:
        magic, kind, count, length, checksum, seq = HEADER.unpack_from(data, start)
        if magic != MAGIC or kind not in _KINDS or 4 * count > length:
            raise Damaged(f"no record begins at byte {start}")
        end = start + HEADER.size + length
        if end > len(data):
            return
        payload = data[start + HEADER.size : end]
        if check and zlib.crc32(payload) != checksum:
            raise Damaged(f"the record at byte {start} has another checksum")
        frames, stamp = _frames(payload, count), b""
        if kind == _STAMPED:
            kind, stamp, frames = Kind.IOPUB, b"".join(frames[:1]), frames[1:]
        yield Record(seq, Kind(kind), frames, end - start, stamp)
        start = end


def missing_bytes(data: memoryview) -> int:
    """Return how many bytes the record at the start of ``data`` still lacks; at least 1."""
    if len(data) < HEADER.size:
        return HEADER.size - len(data)
    length: int = HEADER.unpack_from(data)[3]
    return max(1, HEADER.size + length - len(data))


def _frames(payload: memoryview, count: int) -> tuple[memoryview, ...]:
    sizes = struct.unpack_from(f"<{count}I", payload)
    start, frames = 4 * count, []
    for size in sizes:
        frames.append(payload[start : start + size])
        start += size
    if start != len(payload):
        raise Damaged("the frames of a record do not add up to it")
    return tuple(frames)
