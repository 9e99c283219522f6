"""What commands may ask of virtual folders, whoever answers: a running server, or nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from backendai_jupyter.cli.local_folders import LocalFolders
from backendai_jupyter.cli.server import find_server
from backendai_jupyter.cli.server_folders import ServerFolders
from backendai_jupyter.config import load_files
from backendai_jupyter.web.vfolder_models import (
    EntryList,
    NewVFolder,
    Restoration,
    VFolder,
    VFolderChange,
    VFolderFilter,
    VFolderHostList,
    VFolderList,
)


class Folders(Protocol):
    """The answers are those of the REST API; ``ref`` is a folder's name or id."""

    async def list(self, wanted: VFolderFilter) -> VFolderList: ...

    async def get(self, ref: str) -> VFolder: ...

    async def hosts(self) -> VFolderHostList: ...

    async def create(self, new: NewVFolder) -> VFolder: ...

    async def change(self, ref: str, change: VFolderChange) -> VFolder: ...

    async def trash(self, ref: str) -> None: ...

    async def restore(self, ref: str, restoration: Restoration) -> VFolder: ...

    async def purge(self, ref: str) -> None: ...

    async def entries(self, ref: str, path: str) -> EntryList:
        """List a directory; raises ``Conflict`` for what is none, ``NotFound``."""
        ...

    async def make_directory(self, ref: str, path: str) -> None:
        """Make a directory and what is missing above it; it may be there."""
        ...

    async def upload(
        self, source: Path, ref: str, path: str, *, moved: Callable[[int], None]
    ) -> None:
        """Copy a file into a folder; ``moved`` is told, on any thread, how much is there."""
        ...

    async def download(
        self, ref: str, path: str, target: Path, *, moved: Callable[[int], None]
    ) -> None:
        """Copy a file out of a folder, over ``target`` once it is complete."""
        ...


@asynccontextmanager
async def connect_folders() -> AsyncIterator[Folders]:
    """Yield the folders of the running server, or those of this machine's database."""
    server = await find_server()
    if server is not None:
        yield ServerFolders(server)
        return
    local = LocalFolders(load_files())
    try:
        yield local
    finally:
        await local.close()
