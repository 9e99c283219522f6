"""JupyterLab's own uploads: a large file comes in chunks 1, 2, ..., and -1 for the last.

Nothing of it is seen until it is complete, so that a broken upload leaves the old file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock

from backendai_jupyter.errors import Conflict, InvalidInput
from backendai_jupyter.storage.beneath import Spot
from backendai_jupyter.storage.files import Staged, sentences, writable_file

LAST = -1
MAX_OPEN = 64  # an upload that its browser has given up is never closed by it
MAX_AGE_S = 3600.0  # since its last chunk


@dataclass(slots=True)
class _Part:
    staged: Staged
    fd: int
    touched_at: float
    chunks: int = 0
    lock: Lock = field(default_factory=Lock)

    def close(self) -> None:
        os.close(self.fd)
        self.staged.discard()


class ChunkedUploads:
    """Uploads under way, one for each place; methods block and may run in any thread."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._parts: dict[Hashable, _Part] = {}
        self._lock = Lock()

    def add(self, spot: Spot, key: Hashable, chunk: int, data: bytes) -> os.stat_result:
        """Add a chunk and return what there is so far; the last one puts the file in place.

        Raises ``Conflict`` for a chunk that is not the next one: start again with the first.
        """
        part = self._part(spot, key, chunk)
        try:
            with part.lock:
                if chunk not in {LAST, part.chunks + 1}:
                    raise Conflict(f"Chunk {chunk} of {spot.path!r} came after {part.chunks}.")
                with sentences(spot):
                    _write_all(part.fd, data)
                    part.chunks, part.touched_at = part.chunks + 1, self._now()
                    found = os.fstat(part.fd)
                    if chunk == LAST:
                        part.staged.finish(part.fd, writable_file(spot))
                if chunk == LAST:
                    part.staged.move_to(spot, replace=True)
        except BaseException:
            self._drop(key, part)
            raise
        if chunk == LAST:
            self._drop(key, part)
        return found

    def close(self) -> None:
        """Give up what is not complete."""
        for key, part in list(self._parts.items()):
            self._drop(key, part)

    def _part(self, spot: Spot, key: Hashable, chunk: int) -> _Part:
        if chunk == 1:
            return self._begin(spot, key)
        if chunk < LAST or chunk == 0:
            raise InvalidInput("chunk", f"{chunk} is not the number of a chunk")
        with self._lock:
            part = self._parts.get(key)
        if part is None:
            raise Conflict(f"The upload of {spot.path!r} was interrupted; start it again.")
        return part

    def _begin(self, spot: Spot, key: Hashable) -> _Part:
        writable_file(spot)  # refused at the first chunk and not at the last
        staged = Staged(spot)
        part = _Part(staged, staged.create(), self._now())
        with self._lock:
            old = self._parts.pop(key, None)
            self._parts[key] = part
            stale = [(k, p) for k, p in self._parts.items() if self._is_stale(p)]
            extra = len(self._parts) - len(stale) - MAX_OPEN
            stale += list(self._parts.items())[: max(extra, 0)]
        if old is not None:
            old.close()
        for other, abandoned in stale:
            self._drop(other, abandoned)
        return part

    def _is_stale(self, part: _Part) -> bool:
        return self._now() - part.touched_at > MAX_AGE_S

    def _drop(self, key: Hashable, part: _Part) -> None:
        with self._lock:
            if self._parts.get(key) is not part:
                return  # another thread has dropped it, or begun anew
            del self._parts[key]
        part.close()


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
