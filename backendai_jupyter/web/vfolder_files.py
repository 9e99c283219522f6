"""``/backendai/v1/vfolders/{ref}/files`` and ``directories``: download, look, make room."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.manager.uploads import names_in, open_home
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.files import open_to_read
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.operation import operation
from backendai_jupyter.web.streaming import FileStream
from backendai_jupyter.web.vfolder_models import DirectoryPath, EntryList, FileContent, FilePath
from backendai_jupyter.web.vfolder_queries import make_directory, read_directory


class FilesHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=FileContent, query=FilePath)
    async def get(self, ref: str, query: FilePath) -> None:
        """Download a file, or with the header `Range` a part of it."""
        await self._send(ref, query.path)

    @web.authenticated
    @authorized
    @operation(returns=FileContent, query=FilePath)
    async def head(self, ref: str, query: FilePath) -> None:
        """Return the headers that a download would have."""
        await self._send(ref, query.path)

    async def _send(self, ref: str, path: str) -> None:
        home, folder = await self.ask(open_home(self.manager.vfolders, ref, self.viewer))
        async with _opened(home, names_in(folder, path)) as file:
            await file.send(self)


class DirectoriesHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=EntryList, query=DirectoryPath)
    async def get(self, ref: str, query: DirectoryPath) -> EntryList:
        """List a directory."""
        asked = read_directory(self.manager.vfolders, ref, query.path, self.viewer)
        return await self.ask(asked)

    @web.authenticated
    @authorized
    @operation(returns=None, query=DirectoryPath)
    async def put(self, ref: str, query: DirectoryPath) -> None:
        """Make a directory, and those above it that are missing."""
        await self.ask(make_directory(self.manager.vfolders, ref, query.path, self.viewer))


@asynccontextmanager
async def _opened(home: Home, names: list[str]) -> AsyncIterator[FileStream]:
    fd = await asyncio.to_thread(_open, home, names)
    try:
        yield FileStream(fd, os.fstat(fd), names[-1])
    finally:
        os.close(fd)


def _open(home: Home, names: list[str]) -> int:
    with home.spot(names) as spot:
        return open_to_read(spot)


routes = [
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/files", FilesHandler),
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/directories", DirectoriesHandler),
]
