"""Virtual folders as a running server has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from backendai_jupyter.cli import server_files
from backendai_jupyter.cli.server import Server, parsed
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

_PATIENCE_S = 3600.0  # to measure or to purge a folder takes as long as it has files


class ServerFolders:
    """The ``Folders`` of a server's owner."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def list(self, wanted: VFolderFilter) -> VFolderList:
        query = wanted.model_dump(mode="json", exclude_unset=True)
        answer = await self._server.ask("GET", "vfolders", query=query, timeout_s=_PATIENCE_S)
        return parsed(VFolderList, answer)

    async def get(self, ref: str) -> VFolder:
        answer = await self._server.ask("GET", place_of(ref), timeout_s=_PATIENCE_S)
        return parsed(VFolder, answer)

    async def hosts(self) -> VFolderHostList:
        return parsed(VFolderHostList, await self._server.ask("GET", "vfolder-hosts"))

    async def create(self, new: NewVFolder) -> VFolder:
        return parsed(VFolder, await self._server.ask("POST", "vfolders", body=new))

    async def change(self, ref: str, change: VFolderChange) -> VFolder:
        return parsed(VFolder, await self._server.ask("PATCH", place_of(ref), body=change))

    async def trash(self, ref: str) -> None:
        await self._server.ask("DELETE", place_of(ref))

    async def restore(self, ref: str, restoration: Restoration) -> VFolder:
        path = place_of(ref, "restore")
        return parsed(VFolder, await self._server.ask("POST", path, body=restoration))

    async def purge(self, ref: str) -> None:
        await self._server.ask("POST", place_of(ref, "purge"), timeout_s=_PATIENCE_S)

    async def entries(self, ref: str, path: str) -> EntryList:
        where = place_of(ref, "directories")
        return parsed(EntryList, await self._server.ask("GET", where, query={"path": path}))

    async def make_directory(self, ref: str, path: str) -> None:
        await self._server.ask("PUT", place_of(ref, "directories"), query={"path": path})

    async def upload(
        self, source: Path, ref: str, path: str, *, moved: Callable[[int], None]
    ) -> None:
        uploading = server_files.Uploading(self._server, place_of(ref, "uploads"), source, path)
        await server_files.persist(uploading, moved)

    async def download(
        self, ref: str, path: str, target: Path, *, moved: Callable[[int], None]
    ) -> None:
        downloading = server_files.Downloading(self._server, place_of(ref, "files"), path, target)
        await server_files.persist(downloading, moved)


def place_of(ref: str, *below: str) -> str:
    return "/".join(("vfolders", quote(ref, safe=""), *below))
