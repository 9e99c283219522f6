"""The files of a kernel's journal, and what can be read back from one that is damaged."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backendai_jupyter.agent.relay.records import HEADER, MAGIC, Damaged, Record, decode

_SUFFIX = ".seg"
_MARK_BYTES = 65_536  # how far apart marks are, at least


@dataclass(slots=True, eq=False)
class Segment:
    """Records without a gap in one file.

    ``start`` is where it begins in the whole stream, in bytes since the journal was opened;
    ``cells`` are the executions that have output in it.
    """

    path: Path
    first_seq: int
    start: int
    last_seq: int = 0
    size_bytes: int = 0
    cells: set[str] = field(default_factory=set)
    _marks: list[tuple[int, int]] = field(default_factory=list)  # a seq, and where it begins

    @property
    def end(self) -> int:
        return self.start + self.size_bytes

    def grow(self, first_seq: int, last_seq: int, size_bytes: int) -> None:
        """Take note of records that were written at its end."""
        if not self._marks or self.size_bytes - self._marks[-1][1] >= _MARK_BYTES:
            self._marks.append((first_seq, self.size_bytes))
        self.last_seq = last_seq
        self.size_bytes += size_bytes

    def offset_after(self, seq: int) -> int:
        """Return where in the file the first record later than ``seq`` begins."""
        if seq >= self.last_seq:
            return self.size_bytes
        if seq < self.first_seq:
            return 0
        found, offset = self._marks[bisect.bisect_right(self._marks, seq, key=_seq_of) - 1]
        with self.path.open("rb") as file:
            while found <= seq:
                file.seek(offset)
                offset += HEADER.size + HEADER.unpack(file.read(HEADER.size))[3]
                found += 1
        return offset


def path_of(directory: Path, first_seq: int) -> Path:
    return directory / f"{first_seq:020d}{_SUFFIX}"


def read_back(
    directory: Path, observe: Callable[[Record], str | None]
) -> tuple[list[Segment], list[str]]:
    """Return the readable segments of a journal, oldest first, and what was wrong, in words.

    Every readable record is passed to ``observe``, which returns the id of its execution,
    if any.  A damaged file is replaced by files with what can be read of it.
    """
    segments: list[Segment] = []
    troubles: list[str] = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        last_seq = segments[-1].last_seq if segments else 0
        start = segments[-1].end if segments else 0
        try:
            segments += _read_file(path, last_seq, start, observe, troubles)
        except OSError as error:
            troubles.append(f"{path.name}: {error.strerror}")
    return segments, troubles


def _read_file(
    path: Path,
    last_seq: int,
    start: int,
    observe: Callable[[Record], str | None],
    troubles: list[str],
) -> list[Segment]:
    data = path.read_bytes()
    pieces: list[tuple[Segment, int]] = []  # with where each begins in this file
    next_seq, next_offset = int(path.stem), 0
    for offset, record in _readable(data):
        # The checksum does not cover the number: is this one possible, after what is damaged?
        if not 0 <= record.seq - next_seq <= (offset - next_offset) // HEADER.size:
            continue
        next_seq, next_offset = record.seq + 1, offset + record.size_bytes
        if record.seq <= last_seq:
            continue  # what an attempt to repair the file has left
        if not pieces or record.seq != last_seq + 1 or offset != _end_of(*pieces[-1]):
            begin = _end_in_stream(pieces, start)
            pieces.append((Segment(path_of(path.parent, record.seq), record.seq, begin), offset))
        segment = pieces[-1][0]
        segment.grow(record.seq, record.seq, record.size_bytes)
        last_seq = record.seq
        if (cell := observe(record)) is not None:
            segment.cells.add(cell)
    kept = sum(segment.size_bytes for segment, _ in pieces)
    if pieces and kept == len(data):
        return [segment for segment, _ in pieces]
    troubles.append(f"{path.name}: {len(data) - kept} of {len(data)} bytes are damaged")
    return _repair(path, data, pieces)


def _readable(data: bytes) -> Iterator[tuple[int, Record]]:
    """Yield each undamaged record and where it begins."""
    view, start = memoryview(data), 0
    while start >= 0:
        with contextlib.suppress(Damaged):
            for record in decode(view[start:], check=True):
                yield start, record
                start += record.size_bytes
        start = data.find(MAGIC, start + 1)


def _repair(path: Path, data: bytes, pieces: list[tuple[Segment, int]]) -> list[Segment]:
    """Give each piece a file of its own and return those that have one."""
    done: list[Segment] = []
    # What stays where it is comes last: until then all of it is on the disk.
    for segment, offset in sorted(pieces, key=lambda piece: piece[0].path == path):
        if segment.path == path and offset == 0:
            os.truncate(path, segment.size_bytes)
        elif not _wrote(segment.path, data[offset : offset + segment.size_bytes]):
            continue
        done.append(segment)
    if not any(segment.path == path for segment in done):
        path.unlink()
    return sorted(done, key=lambda segment: segment.first_seq)


def _wrote(path: Path, content: bytes) -> bool:
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(content)
        partial.rename(path)
    except OSError:  # such as a full disk: a gap says that it is lost
        partial.unlink(missing_ok=True)
        return False
    return True


def _end_of(segment: Segment, offset: int) -> int:
    return offset + segment.size_bytes


def _end_in_stream(pieces: list[tuple[Segment, int]], start: int) -> int:
    return pieces[-1][0].end if pieces else start


def _seq_of(mark: tuple[int, int]) -> int:
    return mark[0]
