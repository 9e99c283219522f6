"""Virtual folders: the rows, their directories on the host, their mounts in kernels."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePosixPath

from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.domain.vfolders import check_name
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import Conflict, InvalidInput
from backendai_jupyter.store.vfolders import VFolderStore

HOME = PurePosixPath("/home/work")
FIRST_FOLDER = "data"


class VFolders:
    """What users may do with their folders.

    ``root`` is the mount point of the one host of this version; a folder's directory is
    named by its id, so that renaming it moves nothing.
    """

    def __init__(
        self,
        store: VFolderStore,
        *,
        root: Path,
        owner_ids: tuple[int, int],
        is_mounted: Callable[[str], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._root = root
        self._owner_ids = owner_ids
        self._is_mounted = is_mounted
        self._now = now

    async def ensure_first(self, viewer: Viewer) -> None:
        """Give a new user one folder to start with."""
        if not await self._store.list(viewer):
            try:
                await self.create(FIRST_FOLDER, viewer)
            except Conflict:
                return  # another process has just done it

    async def list(self, viewer: Viewer) -> tuple[VFolder, ...]:
        return await self._store.list(viewer)

    async def create(self, name: str, viewer: Viewer) -> VFolder:
        """Create a folder; raises ``InvalidInput`` for its name, ``Conflict`` if it exists."""
        name = check_name(name)
        folder_id = str(uuid.uuid4())
        path = self._root / viewer.user_id / folder_id
        await asyncio.to_thread(self._make, path)
        try:
            return await self._store.create(
                owner=viewer.user_id,
                name=name,
                host="local",
                path=str(path),
                now=self._now(),
                id=folder_id,
            )
        except Conflict:
            await asyncio.to_thread(path.rmdir)
            raise

    async def rename(self, old: str, new: str, viewer: Viewer) -> None:
        """Rename a folder that no living kernel shows: its path there would change.

        Raises ``NotFound``, ``Conflict`` if it is in use or ``new`` is taken, and
        ``InvalidInput`` for a name that no folder may have.
        """
        folder = await self._store.get(old, viewer)
        if await self._is_mounted(folder.path):
            raise Conflict(f"A running kernel uses the folder {old!r}; shut it down first.")
        await self._store.rename(folder.id, new, viewer)

    async def mounts(self, viewer: Viewer, names: Sequence[str] | None) -> tuple[Mount, ...]:
        """Return the mounts of the user's folders, or of those named.

        Raises ``InvalidInput`` for a name that is not one of them.
        """
        folders = {folder.name: folder for folder in await self._store.list(viewer)}
        chosen = list(folders) if names is None else list(dict.fromkeys(names))
        for name in chosen:
            if name not in folders:
                raise InvalidInput("backendai.mounts", f"you have no folder named {name!r}")
        return tuple(Mount(source=folders[n].path, target=str(HOME / n)) for n in chosen)

    def _make(self, path: Path) -> None:
        path.mkdir(mode=0o770, parents=True)
        if os.geteuid() == 0:
            os.chown(path, *self._owner_ids)


def workdir_of(contents_path: str, mounts: Sequence[Mount]) -> str:
    """Return where a kernel sees the directory ``contents_path`` of the file browser.

    A folder that is not mounted, and the list of folders itself, become the home directory.
    """
    inside = HOME / contents_path.strip("/")
    if any(inside.is_relative_to(mount.target) for mount in mounts) and ".." not in inside.parts:
        return str(inside)
    return str(HOME)


def workdir_of_host(directory: Path, mounts: Sequence[Mount]) -> str | None:
    """Return where a kernel sees a host directory, or None if no mount shows it."""
    for mount in mounts:
        if directory.is_relative_to(mount.source):
            return str(PurePosixPath(mount.target) / directory.relative_to(mount.source))
    return None
