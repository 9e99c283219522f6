"""A kernel's journal on disk: what it has published, in files of a few megabytes.

Appending is one write for many records.  What is older than ``max_bytes`` allows goes, a
whole segment at a time.  A journal that was left by a relay that was killed is read back.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from backendai_jupyter.agent.relay.records import Frame, Kind, Record, encode
from backendai_jupyter.agent.relay.segments import Segment, path_of, read_back

_SEGMENT_BYTES = 4 << 20
_MIN_SEGMENT_BYTES = 65_536
_SEGMENTS = 16  # into which the bound is divided at least
_JOIN_BYTES = 32_768  # larger frames are written as they are, smaller ones are joined
_FULL = {errno.ENOSPC, errno.EDQUOT}

log = logging.getLogger(__name__)


class Why(StrEnum):
    """Why records are not there any more."""

    BOUND = "bound"
    DISK = "disk"  # it could not be written, or had to make room
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that are gone, both ends included; ``size_bytes`` is 0 where nobody knows it."""

    first_seq: int
    last_seq: int
    size_bytes: int
    why: Why


class Journal:
    """The records of one kernel; used by one thread.

    ``head`` is the last number given, ``written_seq`` the last that ``flush`` has dealt with,
    ``end`` the length of the stream in bytes, ``trouble`` why the last attempt to write
    failed, empty if it did not.

    ``observe`` gets every record that is read back and returns the id of its execution.
    ``unfinished`` has the ids of the executions that go on; ``keep_from`` returns where in
    the stream the slowest attached reader is, or None.  ``gaps`` are those that an earlier
    relay knew of.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        observe: Callable[[Record], str | None],
        unfinished: Container[str],
        keep_from: Callable[[], int | None],
        gaps: Sequence[Gap] = (),
    ) -> None:
        self.max_bytes = max_bytes
        self.trouble = ""
        self._directory = directory
        self._segment_bytes = min(_SEGMENT_BYTES, max(max_bytes // _SEGMENTS, _MIN_SEGMENT_BYTES))
        self._unfinished = unfinished
        self._keep_from = keep_from
        self._segments, troubles = read_back(directory, observe)
        for trouble in troubles:
            log.warning("journal %s: %s", directory, trouble)
        self.head = self._segments[-1].last_seq if self._segments else 0
        self.end = self._segments[-1].end if self._segments else 0
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)
        self.written_seq = self.head
        self.losses = 0  # how often records were lost, since it was opened
        self._gaps = list(gaps)
        self._active: Segment | None = None
        self._fd = -1
        self._pieces: list[Frame] = []
        self._cells: set[str] = set()

    @property
    def gaps(self) -> Sequence[Gap]:
        return self._gaps

    def skip_to(self, seq: int) -> None:
        """Give no later record a number up to ``seq``: somebody has got it already."""
        if seq > self.head:
            self._seal()  # within a segment there is no gap
            self.head = self.written_seq = seq

    def add(
        self, kind: Kind, frames: Sequence[Frame], cell: str | None = None, stamp: bytes = b""
    ) -> int:
        """Return the number of a record that the next ``flush`` writes.

        Raises ``ValueError`` when the message is too large for a record.
        """
        self._pieces += encode(self.head + 1, kind, frames, stamp)
        self.head += 1
        if cell is not None:
            self._cells.add(cell)
        return self.head

    def flush(self) -> bytes:
        """Write what was added; return it if that was impossible (``trouble`` says why)."""
        if not self._pieces:
            return b""
        chunks = _join(self._pieces)
        self._pieces = []
        while True:
            try:
                self._write(chunks)
            except OSError as error:
                self._seal()
                if error.errno in _FULL and self._make_room():
                    continue
                self.trouble = error.strerror or type(error).__name__
                self._lose(self.written_seq + 1, self.head, sum(map(len, chunks)), Why.DISK)
                self.written_seq = self.head
                self._cells.clear()
                return b"".join(chunks)
            self.trouble = ""
            self._keep_bound()
            return b""

    def rotate(self) -> None:
        """Begin a new segment if this one is worth it: an execution has just ended."""
        if self._active is not None and self._active.size_bytes >= self._segment_bytes // 4:
            self._seal()

    def close(self) -> None:
        self._seal()

    def is_active(self, segment: Segment) -> bool:
        """Return whether more may be written to it."""
        return segment is self._active

    def segment_after(self, seq: int) -> Segment | None:
        """Return the segment with the first record that is kept and later than ``seq``."""
        index = bisect.bisect_right(self._segments, seq, key=lambda s: s.last_seq)
        return self._segments[index] if index < len(self._segments) else None

    def gap_between(self, seq: int, next_seq: int) -> Gap:
        """Describe what is missing between two numbers that are there."""
        known = [gap for gap in self._gaps if gap.last_seq > seq and gap.first_seq < next_seq]
        size_bytes = 0.0
        for gap in known:
            common = min(gap.last_seq, next_seq - 1) - max(gap.first_seq, seq + 1) + 1
            size_bytes += gap.size_bytes * common / (gap.last_seq - gap.first_seq + 1)
        why = known[-1].why if known else Why.DAMAGE
        return Gap(seq + 1, next_seq - 1, round(size_bytes), why)

    def _write(self, chunks: Sequence[Frame]) -> None:
        segment, size_bytes = self._writable(), 0
        for chunk in chunks:
            rest = memoryview(chunk)
            size_bytes += len(rest)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        if not segment.size_bytes:
            self._segments.append(segment)
        segment.grow(self.written_seq + 1, self.head, size_bytes)
        segment.cells |= self._cells
        self._cells.clear()
        self.end += size_bytes
        self.size_bytes += size_bytes
        self.written_seq = self.head

    def _writable(self) -> Segment:
        if self._active is not None and self._active.size_bytes >= self._segment_bytes:
            self._seal()
        if self._active is None:
            first_seq = self.written_seq + 1
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = path_of(self._directory, first_seq)
            self._fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            self._active = Segment(path, first_seq, self.end)
        return self._active

    def _seal(self) -> None:
        """Leave the active segment with nothing but whole records."""
        if self._active is None:
            return
        with contextlib.suppress(OSError):
            if self._active.size_bytes:
                os.ftruncate(self._fd, self._active.size_bytes)
            else:
                self._active.path.unlink()
        os.close(self._fd)
        self._active, self._fd = None, -1

    def _keep_bound(self) -> None:
        while self.size_bytes > self.max_bytes and len(self._segments) > 1:
            self._drop(self._dispensable(), Why.BOUND)

    def _dispensable(self) -> Segment:
        """Return the oldest that nobody is about to read and in which nothing goes on.

        If there is none like that, the oldest that nobody is about to read; else the oldest.
        """
        sealed = [s for s in self._segments if s is not self._active]
        read = [s for s in sealed if self._is_read(s)]
        done = (s for s in read if not any(cell in self._unfinished for cell in s.cells))
        return next(done, read[0] if read else sealed[0])

    def _make_room(self) -> bool:
        """Drop one segment that nobody is about to read; return whether there was one."""
        if not self._segments or not self._is_read(self._segments[0]):
            return False
        self._drop(self._segments[0], Why.DISK)
        return True

    def _is_read(self, segment: Segment) -> bool:
        """Return whether no reader that is here has yet to read something of it."""
        keep_from = self._keep_from()
        return keep_from is None or segment.end <= keep_from

    def _drop(self, segment: Segment, why: Why) -> None:
        self._segments.remove(segment)
        self.size_bytes -= segment.size_bytes
        with contextlib.suppress(OSError):
            segment.path.unlink()
        self._lose(segment.first_seq, segment.last_seq, segment.size_bytes, why)

    def _lose(self, first_seq: int, last_seq: int, size_bytes: int, why: Why) -> None:
        """Remember a gap, as one with its neighbour where that is possible."""
        self.losses += 1
        for index, gap in enumerate(self._gaps):
            if gap.last_seq + 1 == first_seq and gap.why is why:
                self._gaps[index] = Gap(gap.first_seq, last_seq, gap.size_bytes + size_bytes, why)
                return
        bisect.insort(self._gaps, Gap(first_seq, last_seq, size_bytes, why), key=_first_of)


def _join(pieces: Sequence[Frame]) -> list[Frame]:
    """Return the same bytes in fewer pieces; large ones are not copied."""
    chunks: list[Frame] = []
    small: list[Frame] = []
    for piece in pieces:
        if len(piece) < _JOIN_BYTES:
            small.append(piece)
            continue
        chunks += [b"".join(small), piece]
        small = []
    return [*chunks, b"".join(small)] if small else chunks


def _first_of(gap: Gap) -> int:
    return gap.first_seq
