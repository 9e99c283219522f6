"""A backend without agents or a database: folders in a dict, their directories on disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.errors import Conflict, NotFound
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.storage.hosts import prepare_all
from backendai_jupyter.store.vfolders import READY, VFolderStore

T = TypeVar("T")

KERNEL = 4711 if os.geteuid() == 0 else os.geteuid()  # kernels run as this user


class FoldersInADict:
    """What ``VFolders`` needs of a ``VFolderStore``; ``mounted`` has ids that kernels show."""

    def __init__(self) -> None:
        self.by_ids: dict[str, VFolder] = {}
        self.mounted: set[str] = set()
        self.reads = 0

    @property
    def folders(self) -> dict[str, VFolder]:
        return {f.name: f for f in self.by_ids.values() if f.status in READY}

    async def create(self, owner: str, name: str, **values: Any) -> VFolder:
        self._check_free(name)
        created_at = values.pop("now")
        folder = VFolder(owner=owner, name=name, created_at=created_at, **values)
        self.by_ids[folder.id] = folder
        return folder

    async def get(self, name: str, viewer: Viewer) -> VFolder:
        if name not in self.folders:
            raise NotFound(f"There is no folder {name!r}.")
        return self.folders[name]

    async def by_id(self, folder_id: str, viewer: Viewer) -> VFolder:
        if folder_id not in self.by_ids:
            raise NotFound(f"There is no folder {folder_id!r}.")
        return self.by_ids[folder_id]

    async def list(
        self, viewer: Viewer, *, statuses: Collection[VFolderStatus] = READY
    ) -> tuple[VFolder, ...]:
        self.reads += 1
        found = [
            f for f in self.by_ids.values() if f.status in statuses and viewer.may_see(f.owner)
        ]
        return tuple(sorted(found, key=lambda folder: folder.name))

    async def change(
        self,
        folder_id: str,
        viewer: Viewer,
        *,
        name: str | None = None,
        permission: Permission | None = None,
    ) -> VFolder:
        folder = self.by_ids[folder_id]
        if folder_id in self.mounted:
            raise Conflict(f"A running kernel uses the folder {folder.name!r}.")
        if name is not None:
            self._check_free(name)
            folder = replace(folder, name=name)
        if permission is not None:
            folder = replace(folder, permission=permission)
        self.by_ids[folder_id] = folder
        return folder

    async def trash(self, folder_id: str, viewer: Viewer, *, now: float) -> None:
        self._set_status(folder_id, VFolderStatus.DELETE_PENDING)

    async def begin_purge(self, folder_id: str, viewer: Viewer) -> VFolder:
        self._set_status(folder_id, VFolderStatus.DELETE_ONGOING)
        return self.by_ids[folder_id]

    async def end_purge(self, folder_id: str) -> None:
        self._set_status(folder_id, VFolderStatus.DELETE_COMPLETE)

    def _set_status(self, folder_id: str, status: VFolderStatus) -> None:
        self.by_ids[folder_id] = replace(self.by_ids[folder_id], status=status)

    def _check_free(self, name: str) -> None:
        if name in self.folders:
            raise Conflict(f"There is a folder {name!r} already.")


class SmallBackend:
    """What the contents manager and the kernelspec manager need of a ``Backend``."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir()
        self.settings = BackendAI(data_dir=str(data_dir))
        self.store = FoldersInADict()
        hosts = self.settings.hosts()
        prepare_all(hosts, needed="local", known={})
        self.host = hosts["local"]
        vfolders = VFolders(
            cast(VFolderStore, self.store),
            hosts=hosts,
            default_host="local",
            owner_ids=(KERNEL, KERNEL),
            now=lambda: 1_000_000.0,
        )
        self.manager = SimpleNamespace(viewer=Viewer("me"), vfolders=vfolders, board=Board())

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

    async def make_folder(self, name: str, **values: Any) -> Path:
        folder = await self.manager.vfolders.create(name, self.manager.viewer, **values)
        return Path(folder.path)

    def as_backend(self) -> Backend:
        return cast(Backend, self)


def entries(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def owner_of(path: str) -> int:
    return Path(path).lstat().st_uid


def owners(*directories: Path) -> list[int]:
    """Return the owner of everything beneath some directories."""
    return [path.lstat().st_uid for directory in directories for path in directory.rglob("*")]
