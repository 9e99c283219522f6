"""A backend without agents or a database: folders in a dict, their directories on disk."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.errors import Conflict, NotFound
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.store.vfolders import VFolderStore

T = TypeVar("T")

KERNEL = 4711 if os.geteuid() == 0 else os.geteuid()  # kernels run as this user


class FoldersInADict:
    """What ``VFolders`` needs of a ``VFolderStore``."""

    def __init__(self) -> None:
        self.folders: dict[str, VFolder] = {}
        self.reads = 0

    async def create(
        self, owner: str, name: str, *, host: str, path: str, id: str, now: float
    ) -> VFolder:
        if name in self.folders:
            raise Conflict(f"There is a folder {name!r} already.")
        self.folders[name] = VFolder(id, owner, name, host, path, now)
        return self.folders[name]

    async def get(self, name: str, viewer: Viewer) -> VFolder:
        if name not in self.folders:
            raise NotFound(f"There is no folder {name!r}.")
        return self.folders[name]

    async def rename(self, folder_id: str, name: str, viewer: Viewer) -> None:
        if name in self.folders:
            raise Conflict(f"There is a folder {name!r} already.")
        (old,) = (n for n, folder in self.folders.items() if folder.id == folder_id)
        self.folders[name] = replace(self.folders.pop(old), name=name)

    async def list(self, viewer: Viewer) -> tuple[VFolder, ...]:
        self.reads += 1
        return tuple(sorted(self.folders.values(), key=lambda folder: folder.name))


class SmallBackend:
    """What the contents manager and the kernelspec manager need of a ``Backend``."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = BackendAI(data_dir=str(data_dir))
        self.store = FoldersInADict()
        self.mounted: set[str] = set()  # directories that a kernel shows
        vfolders = VFolders(
            cast(VFolderStore, self.store),
            root=data_dir / "vfolders",
            owner_ids=(KERNEL, KERNEL),
            is_mounted=self._is_mounted,
            now=lambda: 1_000_000.0,
        )
        self.manager = SimpleNamespace(viewer=Viewer("me"), vfolders=vfolders, board=Board())

    async def _is_mounted(self, path: str) -> bool:
        return path in self.mounted

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    def call_blocking(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work that never waits, as all of this backend's does not."""
        try:
            work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("it waited")

    async def make_folder(self, name: str) -> Path:
        folder = await self.manager.vfolders.create(name, self.manager.viewer)
        return Path(folder.path)

    def as_backend(self) -> Backend:
        return cast(Backend, self)


def entries(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def owners(*directories: Path) -> list[int]:
    """Return the owner of everything beneath some directories."""
    return [path.lstat().st_uid for directory in directories for path in directory.rglob("*")]
