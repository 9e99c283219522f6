"""``GET /api/resolvePath``: what the file browser calls a path that a kernel has printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from jupyter_server.auth.decorator import authorized
from jupyter_server.services.api.handlers import PathResolverHandler
from jupyter_server.utils import ensure_async
from tornado import web

from backendai_jupyter.domain.mounts import HOME
from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import NotFound
from backendai_jupyter.manager.vfolders import contents_path_of
from backendai_jupyter.provisioning.adoption import catch_up
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.web.base import BackendHandler


class ResolvePathHandler(BackendHandler, PathResolverHandler):
    """Answers as the Jupyter Server does, and knows besides what our kernels see where."""

    auth_resource = PathResolverHandler.auth_resource

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Find a path of a kernel: absolute, below ``~``, or where the kernel started to work."""
        session = await self._session_of(self.get_query_argument("kernel", default=""))
        if session is None:
            await ensure_async(super().get())
            return
        path = self.get_query_argument("path")
        found = shown_as(path, session.main.workdir, session.main.mounts)
        exists = found is not None and await self._exists(found)
        self.finish(json.dumps({"resolved": [{"scope": "server", "path": found}] * exists}))

    async def _session_of(self, kernel_id: str) -> ComputeSession | None:
        """Return the viewer's session behind a kernel of Jupyter's; None if it is not one."""
        await catch_up(self.kernel_manager, kernel_id)
        if kernel_id not in self.kernel_manager:
            return None
        provisioner = self.kernel_manager.get_kernel(kernel_id).provisioner
        place = provisioner.place if isinstance(provisioner, BackendAIProvisioner) else None
        if place is None:
            return None
        try:
            return await self.ask(self.manager.sessions.get(place.session_id, self.viewer))
        except NotFound:
            return None

    async def _exists(self, path: str) -> bool:
        contents = self.contents_manager
        return bool(
            await ensure_async(contents.file_exists(path))
            or await ensure_async(contents.dir_exists(path))
        )


def shown_as(path: str, workdir: str, mounts: Sequence[Mount]) -> str | None:
    """Return the contents path of a path as a kernel says it; None for what is in no folder."""
    if path == "~" or path.startswith("~/"):
        return contents_path_of(str(HOME / path[2:]), mounts)
    return contents_path_of(str(PurePosixPath(workdir, path)), mounts)


routes = [(r"/api/resolvePath", ResolvePathHandler)]
