"""``/backendai/v1/vfolders`` and ``vfolder-hosts``: which folders there are, and their fate."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.operation import operation
from backendai_jupyter.web.vfolder_models import (
    NewVFolder,
    Restoration,
    VFolder,
    VFolderChange,
    VFolderFilter,
    VFolderHostList,
    VFolderList,
    vfolder_of,
)
from backendai_jupyter.web.vfolder_queries import read_hosts, read_vfolder, read_vfolders


class VFoldersHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=VFolderList, query=VFolderFilter)
    async def get(self, query: VFolderFilter) -> VFolderList:
        """List virtual folders, those in the trash too."""
        return await self.ask(read_vfolders(self.manager.vfolders, query, self.viewer))

    @web.authenticated
    @authorized
    @operation(returns=VFolder, body=NewVFolder, status=201)
    async def post(self, body: NewVFolder) -> VFolder:
        """Make a folder."""
        making = self.manager.vfolders.create(
            body.name, self.viewer, host=body.host, permission=body.permission
        )
        return vfolder_of(await self.ask(making))


class VFolderHandler(BackendHandler):
    """``ref`` is the name of a folder that is not in the trash, or the id of any."""

    @web.authenticated
    @authorized
    @operation(returns=VFolder)
    async def get(self, ref: str) -> VFolder:
        """Return one folder with what it holds."""
        return await self.ask(read_vfolder(self.manager.vfolders, ref, self.viewer))

    @web.authenticated
    @authorized
    @operation(returns=VFolder, body=VFolderChange)
    async def patch(self, ref: str, body: VFolderChange) -> VFolder:
        """Rename a folder or change its permission, while no kernel uses it."""
        changing = self.manager.vfolders.change(
            ref, self.viewer, name=body.name, permission=body.permission
        )
        return vfolder_of(await self.ask(changing))

    @web.authenticated
    @authorized
    @operation(returns=None)
    async def delete(self, ref: str) -> None:
        """Move a folder to the trash."""
        await self.ask(self.manager.vfolders.trash(ref, self.viewer))


class RestoreHandler(BackendHandler):
    """``ref`` is an id, or a name that is in the trash once."""

    @web.authenticated
    @authorized
    @operation(returns=VFolder, body=Restoration)
    async def post(self, ref: str, body: Restoration) -> VFolder:
        """Take a folder out of the trash."""
        restoring = self.manager.vfolders.restore(ref, self.viewer, name=body.name)
        return vfolder_of(await self.ask(restoring))


class PurgeHandler(BackendHandler):
    """``ref`` is an id, or a name that is in the trash once."""

    @web.authenticated
    @authorized
    @operation(returns=None)
    async def post(self, ref: str) -> None:
        """Remove a folder of the trash with all that is in it, for good."""
        await self.ask(self.manager.vfolders.purge(ref, self.viewer))


class VFolderHostsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=VFolderHostList)
    async def get(self) -> VFolderHostList:
        """List the hosts of folders and how full they are."""
        return await self.ask(read_hosts(self.manager.vfolders))


routes = [
    (r"/backendai/v1/vfolder-hosts", VFolderHostsHandler),
    (r"/backendai/v1/vfolders", VFoldersHandler),
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)", VFolderHandler),
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/restore", RestoreHandler),
    (r"/backendai/v1/vfolders/(?P<ref>[^/]+)/purge", PurgeHandler),
]
