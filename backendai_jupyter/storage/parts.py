"""Files that arrive in parts, on the host of their folder until they are complete; blocks.

::

    {root}/.backendai/uploads/{id}.json    what it will be, and whose it is
    {root}/.backendai/uploads/{id}.part    what is there of it; its size is the offset

Nothing is kept in memory, so that an upload outlives the server.  A record without a part
means that the file is where it belongs: the record is written last and removed first.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backendai_jupyter.errors import Conflict, InvalidInput, NotFound, Unavailable
from backendai_jupyter.storage.beneath import Spot
from backendai_jupyter.storage.files import adopt
from backendai_jupyter.storage.hosts import VFolderHost

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of an upload; ``path`` is the one in its folder."""

    id: str
    owner: str
    folder_id: str
    path: str
    length: int
    metadata: str = ""  # for its client


class Parts:
    """The uploads of one host."""

    def __init__(self, host: VFolderHost) -> None:
        self._host = host

    def add(self, part: Part) -> None:
        """Begin an upload; raises ``InvalidInput`` if there is no room for all of it."""
        free = self._host.space().free
        if part.length > free:
            raise InvalidInput("Upload-Length", f"only {free} bytes are free on its host")
        record = self._record(part.id)
        with self._answering():
            os.close(os.open(self._part(part.id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            partial = record.with_suffix(".new")
            partial.write_text(json.dumps(asdict(part)))
            partial.replace(record)

    def get(self, part_id: str) -> Part:
        """Raises ``NotFound``."""
        if not _ID.fullmatch(part_id):
            raise _unknown(part_id)
        with self._answering():
            try:
                return Part(**json.loads(self._record(part_id).read_text()))
            except FileNotFoundError:
                raise _unknown(part_id) from None

    def all(self) -> Iterator[Part]:
        """Yield the uploads that are not complete."""
        with self._answering():
            found = sorted(path.stem for path in self._host.uploads.glob("*.part"))
        for part_id in found:
            with suppress(NotFound):  # it has just been removed
                yield self.get(part_id)

    def offset(self, part: Part) -> int:
        """Return how much of an upload is there; all of it once it is in its folder."""
        with self._answering():
            try:
                return self._part(part.id).stat().st_size
            except FileNotFoundError:
                return part.length

    def changed_at(self, part: Part) -> float:
        """Return when the last byte came, in seconds since the epoch."""
        with self._answering():
            return _changed_at(self._part(part.id)) or _changed_at(self._record(part.id))

    def append(self, part: Part, offset: int, data: bytes) -> int:
        """Write what follows on the first ``offset`` bytes; return the new offset.

        Raises ``Conflict`` unless exactly so much is there.  Of two connections that get here
        at once, as after a cut one of them may be, both write the same bytes to the same place.
        """
        if offset + len(data) > part.length:
            raise InvalidInput("body", f"more than the {part.length} bytes that were announced")
        with self._answering():
            try:
                fd = os.open(self._part(part.id), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise Conflict("This upload is complete, or has been given up.") from None
            try:
                there = os.fstat(fd).st_size
                if there != offset:
                    raise Conflict(f"{there} bytes of this upload are there, and not {offset}.")
                return _write(fd, offset, data)
            finally:
                os.close(fd)

    def place(self, part: Part, spot: Spot) -> None:
        """Move a complete upload where it belongs; doing so twice is harmless."""
        path = self._part(part.id)
        if not path.exists():
            return
        try:
            adopt(path, spot)
        except NotFound:
            if path.exists():
                raise  # else another request has just done it

    def remove(self, part_id: str) -> None:
        """Forget an upload with all that is there of it."""
        with self._answering():
            self._record(part_id).unlink(missing_ok=True)
            self._part(part_id).unlink(missing_ok=True)

    def sweep(self, before: float) -> None:
        """Remove what has not grown since ``before``."""
        with self._answering():
            paths = list(self._host.uploads.iterdir())
        for part_id in {path.stem for path in paths}:
            related = [self._part(part_id), self._record(part_id)]
            if max(map(_changed_at, related)) < before:
                self.remove(part_id)

    def _record(self, part_id: str) -> Path:
        return self._host.uploads / f"{part_id}.json"

    def _part(self, part_id: str) -> Path:
        return self._host.uploads / f"{part_id}.part"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"The vfolder host {self._host.name!r} could not take it: {error.strerror}."
            ) from error


def new_id() -> str:
    return uuid.uuid4().hex


def _write(fd: int, offset: int, data: bytes) -> int:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        offset, left = offset + written, left[written:]
    return offset


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _unknown(part_id: str) -> NotFound:
    return NotFound(f"There is no upload {part_id!r}.")
