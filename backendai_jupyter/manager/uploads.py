"""Uploads that survive a cut connection and a restarted server: begin, go on, complete.

An upload belongs to who began it and lies beside its folder (``storage.parts``) until its
last byte is there.  Only then does it appear in the folder, all of it at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.errors import Conflict, InvalidInput, NotFound
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.files import writable_file
from backendai_jupyter.storage.parts import Part, Parts, new_id

LIFETIME_S = 24 * 3600  # after the last byte


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload, and how much of it is there."""

    part: Part
    parts: Parts
    offset: int
    expires_at: float

    @property
    def id(self) -> str:
        return self.part.id

    @property
    def path(self) -> str:
        return self.part.path

    @property
    def length(self) -> int:
        return self.part.length

    @property
    def metadata(self) -> str:
        return self.part.metadata

    @property
    def folder_id(self) -> str:
        return self.part.folder_id

    def check_next(self, offset: int, count: int) -> None:
        """Raise unless ``count`` bytes from ``offset`` on are what may come next."""
        if offset != self.offset:
            raise Conflict(f"{self.offset} bytes of this upload are there, and not {offset}.")
        if offset + count > self.length:
            raise InvalidInput("Content-Length", f"only {self.length - offset} bytes are missing")

    async def append(self, data: bytes) -> Upload:
        """Add what comes next; raises ``Conflict`` if another connection was faster."""
        offset = await asyncio.to_thread(self.parts.append, self.part, self.offset, data)
        return replace(self, offset=offset)


class Uploads:
    """What viewers may upload into their folders; ``ref`` is a folder's name or id."""

    def __init__(self, vfolders: VFolders, *, now: Callable[[], float] = time.time) -> None:
        self._vfolders = vfolders
        self._now = now

    async def begin(
        self, ref: str, path: str, viewer: Viewer, *, length: int, metadata: str = ""
    ) -> Upload:
        """Begin an upload of ``length`` bytes, to appear at ``path``.

        Raises what a write to that place would raise, and ``InvalidInput`` if it cannot fit.
        """
        home, folder = await open_home(self._vfolders, ref, viewer)
        part = Part(new_id(), viewer.user_id, folder.id, path, length, metadata)
        parts = Parts(home.host_of(folder))
        await asyncio.to_thread(self._begin, home, folder, parts, part)
        if length == 0:
            await asyncio.to_thread(_place, home, folder, parts, part)
        return self._upload(parts, part, offset=0)

    async def list(self, ref: str, viewer: Viewer) -> list[Upload]:
        """Return the viewer's uploads into a folder that are not complete."""
        home, folder = await open_home(self._vfolders, ref, viewer)
        parts = Parts(home.host_of(folder))
        found = await asyncio.to_thread(lambda: list(parts.all()))
        its = [p for p in found if p.folder_id == folder.id and p.owner == viewer.user_id]
        return [await asyncio.to_thread(self._upload, parts, part) for part in its]

    async def get(self, ref: str, upload_id: str, viewer: Viewer) -> Upload:
        """Return an upload of the viewer's; raises ``NotFound`` for anybody else's.

        One whose last byte is there is put in its place, should a server have been ended
        before it came to that.
        """
        home, folder, parts, part = await self._find(ref, upload_id, viewer)
        upload = await asyncio.to_thread(self._upload, parts, part)
        if upload.offset == part.length:
            await asyncio.to_thread(_place, home, folder, parts, part)
        return upload

    async def discard(self, ref: str, upload_id: str, viewer: Viewer) -> None:
        """Give an upload up; one that is complete stays where it is."""
        _, _, parts, _ = await self._find(ref, upload_id, viewer)
        await asyncio.to_thread(parts.remove, upload_id)

    async def _find(
        self, ref: str, upload_id: str, viewer: Viewer
    ) -> tuple[Home, VFolder, Parts, Part]:
        home, folder = await open_home(self._vfolders, ref, viewer)
        parts = Parts(home.host_of(folder))
        part = await asyncio.to_thread(parts.get, upload_id)
        if part.owner != viewer.user_id or part.folder_id != folder.id:
            raise NotFound(f"There is no upload {upload_id!r}.")
        return home, folder, parts, part

    def _begin(self, home: Home, folder: VFolder, parts: Parts, part: Part) -> None:
        with home.spot(names_in(folder, part.path)) as spot:
            writable_file(spot)
        parts.sweep(self._now() - LIFETIME_S)
        parts.add(part)

    def _upload(self, parts: Parts, part: Part, *, offset: int | None = None) -> Upload:
        there = parts.offset(part) if offset is None else offset
        return Upload(part, parts, there, parts.changed_at(part) + LIFETIME_S)


async def open_home(vfolders: VFolders, ref: str, viewer: Viewer) -> tuple[Home, VFolder]:
    """Return the viewer's folders and the one of this name or id; it is not in the trash."""
    home = await vfolders.home(viewer)
    by_id = {folder.id: folder for folder in home.folders.values()}
    return home, by_id.get(ref) or home.folder(ref)


def names_in(folder: VFolder, path: str) -> list[str]:
    """Return the names that lead to ``path`` of a folder, the folder's own first."""
    names = [name for name in path.split("/") if name not in {"", "."}]
    if ".." in names:
        raise InvalidInput("path", f"{path!r} leads out of the folder")
    return [folder.name, *names]


def _place(home: Home, folder: VFolder, parts: Parts, part: Part) -> None:
    with home.spot(names_in(folder, part.path)) as spot:
        parts.place(part, spot)
