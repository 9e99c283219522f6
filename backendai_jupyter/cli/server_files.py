"""Files to and from a running server, from disk to disk, as often as the connection breaks.

What has arrived is never sent again: an upload goes on where the server says that it
stopped, also when the command that began it is long over (tus; see ``web/tus.py``), and a
download goes on behind what is on disk (``Range``).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from backendai_jupyter.cli.copying import BLOCK_BYTES, copy, on_thread
from backendai_jupyter.cli.server import Server, parsed, path_with
from backendai_jupyter.errors import BackendError, Conflict, Unavailable
from backendai_jupyter.web.vfolder_models import UploadContent, UploadList

Report = Callable[[int], None]

_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)  # between attempts that achieve nothing
_PATIENCE_S = 120.0  # for the answer to the last byte: a large file goes to disk first
_TUS = {"Tus-Resumable": "1.0.0"}


class Transfer(Protocol):
    """One file on its way; ``done`` is how much of it has arrived, as far as known."""

    done: int

    def attempt(self, report: Report) -> None:
        """Go on to the end; raises ``Unavailable`` or ``Conflict`` if it is worth another try."""
        ...


async def persist(transfer: Transfer, moved: Report) -> None:
    """Try until the file has arrived; give up when several attempts in a row got nowhere."""
    failures = 0
    while True:
        before = transfer.done
        try:
            return await on_thread(transfer.attempt, moved)
        except (Unavailable, Conflict):
            failures = 0 if transfer.done > before else failures + 1
            if failures == len(_DELAYS_S):
                raise
        await asyncio.sleep(_DELAYS_S[max(failures - 1, 0)])


class Uploading:
    """``uploads`` is where the folder's uploads are, ``path`` where the file shall be."""

    def __init__(self, server: Server, uploads: str, source: Path, path: str) -> None:
        self._server = server
        self._uploads = uploads
        self._source = source
        self._path = path
        found = source.stat()
        self._size = found.st_size
        version = f"{found.st_size}-{found.st_mtime_ns}".encode()
        self._metadata = f"version {base64.b64encode(version).decode()}"
        self._place: str | None = None
        self.done = 0

    def attempt(self, report: Report) -> None:
        if self._place is None:
            self._place = self._begun() or self._begin()
        with self._server.request("HEAD", self._place, headers=_TUS) as answer:
            self.done = int(answer.headers["Upload-Offset"])
        report(self.done)
        if self.done < self._size:
            self._send(self._place, report)

    def _begun(self) -> str | None:
        """Return the upload of this very file that an earlier command has begun."""
        with self._server.request("GET", self._uploads) as answer:
            begun = parsed(UploadList, self._server.read(answer)).root
        wanted = (self._path, self._size, self._metadata)
        same = (u.id for u in begun if (u.path, u.length, u.metadata) == wanted)
        found = next(same, None)
        return found and f"{self._uploads}/{found}"

    def _begin(self) -> str:
        target = path_with(self._uploads, {"path": self._path})
        announced = {"Upload-Length": str(self._size), "Upload-Metadata": self._metadata}
        with self._server.request("POST", target, headers={**_TUS, **announced}) as answer:
            return f"{self._uploads}/{answer.headers['Location'].rpartition('/')[2]}"

    def _send(self, place: str, report: Report) -> None:
        headers = {
            **_TUS,
            "Upload-Offset": str(self.done),
            "Content-Length": str(self._size - self.done),
            "Content-Type": UploadContent.media_type,
        }
        with (
            self._source.open("rb") as file,
            self._server.request(
                "PATCH",
                place,
                headers=headers,
                body=self._blocks(file, report),
                timeout_s=_PATIENCE_S,
            ) as answer,
        ):
            self._server.read(answer)

    def _blocks(self, file: BinaryIO, report: Report) -> Iterator[bytes]:
        sent = file.seek(self.done)
        while sent < self._size:
            block = file.read(min(BLOCK_BYTES, self._size - sent))
            if not block:
                raise BackendError(f"{self._source} became shorter while it was uploaded.")
            yield block
            sent += len(block)
            report(sent)


class Downloading:
    """``files`` is where the folder's files are, ``path`` the one that is wanted."""

    def __init__(self, server: Server, files: str, path: str, target: Path) -> None:
        self._server = server
        self._address = path_with(files, {"path": path})
        self._path = path
        self._target = target
        self.done = 0

    def attempt(self, report: Report) -> None:
        with self._server.request("HEAD", self._address) as answer:
            size, etag = int(answer.headers["Content-Length"]), answer.headers["Etag"]
        partial = self._partial(etag)
        self.done = partial.stat().st_size if partial.exists() else 0
        report(self.done)
        if self.done < size or not partial.exists():
            self._receive(partial, etag, report)
        if self.done != size:
            raise Unavailable(f"{self.done} of {size} bytes of {self._path!r} have arrived.")
        partial.replace(self._target)

    def _partial(self, etag: str) -> Path:
        """Return where the file grows; another version of it would grow elsewhere."""
        version = hashlib.sha256(etag.encode()).hexdigest()[:12]
        return self._target.with_name(f".{self._target.name}.{version}.partial")

    def _receive(self, partial: Path, etag: str, report: Report) -> None:
        headers = {"Range": f"bytes={self.done}-", "If-Range": etag} if self.done else {}
        with self._server.request("GET", self._address, headers=headers) as answer:
            if answer.headers["Etag"] != etag:
                partial.unlink(missing_ok=True)
                raise Conflict(f"{self._path!r} has changed while it was downloaded.")
            with partial.open("ab") as file:
                read = functools.partial(self._server.read, answer)
                self.done = copy(read, file, report, done=self.done)
