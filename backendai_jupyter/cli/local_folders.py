"""Virtual folders without a server: the database, and the folders' own directories."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from traitlets.config import Config

from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.cli.copying import copy, on_thread
from backendai_jupyter.cli.database import LocalDatabase
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.manager.uploads import names_in, open_home
from backendai_jupyter.manager.vfolders import VFolders, prepare_hosts
from backendai_jupyter.storage.files import reading, replacing
from backendai_jupyter.store.hosts import VFolderHostStore
from backendai_jupyter.store.vfolders import VFolderStore
from backendai_jupyter.web import vfolder_queries as queries
from backendai_jupyter.web.vfolder_models import (
    EntryList,
    NewVFolder,
    Restoration,
    VFolder,
    VFolderChange,
    VFolderFilter,
    VFolderHostList,
    VFolderList,
    vfolder_of,
)


class LocalFolders:
    """The ``Folders`` of this machine's owner."""

    def __init__(self, config: Config) -> None:
        self._settings = BackendAI(config=config)
        self._kernel_ids = kernel_identity(BackendAIAgent(config=config).kernel_uid)
        self._database = LocalDatabase(self._settings)

    async def close(self) -> None:
        await self._database.close()

    async def list(self, wanted: VFolderFilter) -> VFolderList:
        if self._database.is_new():
            return VFolderList([])
        vfolders, viewer = await self._open()
        return await queries.read_vfolders(vfolders, wanted, viewer)

    async def get(self, ref: str) -> VFolder:
        vfolders, viewer = await self._open()
        return await queries.read_vfolder(vfolders, ref, viewer)

    async def hosts(self) -> VFolderHostList:
        if self._database.is_new():
            return VFolderHostList([])
        vfolders, _ = await self._open()
        return await queries.read_hosts(vfolders)

    async def create(self, new: NewVFolder) -> VFolder:
        vfolders, viewer = await self._open()
        made = await vfolders.create(new.name, viewer, host=new.host, permission=new.permission)
        return vfolder_of(made)

    async def change(self, ref: str, change: VFolderChange) -> VFolder:
        vfolders, viewer = await self._open()
        changed = await vfolders.change(ref, viewer, name=change.name, permission=change.permission)
        return vfolder_of(changed)

    async def trash(self, ref: str) -> None:
        vfolders, viewer = await self._open()
        await vfolders.trash(ref, viewer)

    async def restore(self, ref: str, restoration: Restoration) -> VFolder:
        vfolders, viewer = await self._open()
        return vfolder_of(await vfolders.restore(ref, viewer, name=restoration.name))

    async def purge(self, ref: str) -> None:
        vfolders, viewer = await self._open()
        await vfolders.purge(ref, viewer)

    async def entries(self, ref: str, path: str) -> EntryList:
        vfolders, viewer = await self._open()
        return await queries.read_directory(vfolders, ref, path, viewer)

    async def make_directory(self, ref: str, path: str) -> None:
        vfolders, viewer = await self._open()
        await queries.make_directory(vfolders, ref, path, viewer)

    async def upload(
        self, source: Path, ref: str, path: str, *, moved: Callable[[int], None]
    ) -> None:
        vfolders, viewer = await self._open()
        home, folder = await open_home(vfolders, ref, viewer)

        def work(report: Callable[[int], None]) -> None:
            with (
                source.open("rb") as original,
                home.spot(names_in(folder, path)) as spot,
                replacing(spot) as target,
            ):
                copy(original.read, target, report)

        await on_thread(work, moved)

    async def download(
        self, ref: str, path: str, target: Path, *, moved: Callable[[int], None]
    ) -> None:
        vfolders, viewer = await self._open()
        home, folder = await open_home(vfolders, ref, viewer)

        def work(report: Callable[[int], None]) -> None:
            partial = target.with_name(f".{target.name}.partial")
            with home.spot(names_in(folder, path)) as spot, reading(spot) as original:
                with partial.open("wb") as file:
                    copy(original.read, file, report)
                partial.replace(target)

        await on_thread(work, moved)

    async def _open(self) -> tuple[VFolders, Viewer]:
        database, viewer = await self._database.open()
        hosts = self._settings.hosts()
        default_host = self._settings.default_vfolder_host
        await prepare_hosts(VFolderHostStore(database), hosts, needed=default_host)
        vfolders = VFolders(
            VFolderStore(database),
            hosts=hosts,
            default_host=default_host,
            owner_ids=self._kernel_ids,
            now=time.time,
        )
        await vfolders.ensure_first(viewer)
        return vfolders, viewer
