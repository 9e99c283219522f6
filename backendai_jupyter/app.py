"""The server extension: wires the backend into a Jupyter Server, and nothing else."""

from __future__ import annotations

import asyncio
import logging

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import ensure_async
from tornado.ioloop import IOLoop
from traitlets import TraitError

from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.errors import BackendError
from backendai_jupyter.provisioning.adoption import Adoption
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.changes import Changes
from backendai_jupyter.provisioning.deaths import Deaths
from backendai_jupyter.provisioning.jupyter_sessions import BackendAISessionManager
from backendai_jupyter.provisioning.kernel_manager import (
    BackendAIKernelManager,
    BackendAIMappingKernelManager,
)
from backendai_jupyter.provisioning.kernelspecs import BackendAIKernelSpecManager
from backendai_jupyter.provisioning.restore import restore_kernels
from backendai_jupyter.web.event_log import emitter
from backendai_jupyter.web.kernel_connection import settle_all
from backendai_jupyter.web.last_requests import end_requests
from backendai_jupyter.web.routes import routes

log = logging.getLogger(__name__)


class BackendAIExtension(ExtensionApp):
    """Makes a Jupyter Server the manager of a Backend.AI cluster."""

    name = "backendai_jupyter"
    extension_url = "/lab"
    load_other_extensions = True
    classes = [BackendAI, BackendAIAgent]  # noqa: RUF012 - the base class declares it so

    backend: Backend
    changes: Changes

    def _link_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """Choose the server's managers; the only moment before they are made.

        The backend starts here as well: contents and kernelspecs are asked for at once.
        """
        try:
            self.backend = Backend(serverapp.config, serving=True)
            self.backend.start()
        except (BackendError, TraitError, OSError) as error:
            raise SystemExit(f"The Backend.AI extension cannot start. {error}") from error
        except Exception as error:
            # jupyter_server would go on without us, and show its own files in place of folders.
            log.exception("a defect keeps the Backend.AI extension from starting")
            raise SystemExit("The Backend.AI extension cannot start; the log says why.") from error
        BACKENDS.serve(self.backend)
        serverapp.kernel_manager_class = BackendAIMappingKernelManager
        serverapp.kernel_spec_manager_class = BackendAIKernelSpecManager
        serverapp.contents_manager_class = VFolderContentsManager
        serverapp.session_manager_class = BackendAISessionManager
        manager_name = f"{BackendAIKernelManager.__module__}.{BackendAIKernelManager.__name__}"
        serverapp.config.MappingKernelManager.kernel_manager_class = manager_name
        super()._link_jupyter_server_extension(serverapp)

    def initialize_settings(self) -> None:
        self.settings["backendai_backend"] = self.backend
        assert self.serverapp is not None
        if isinstance(self.serverapp.kernel_manager, BackendAIMappingKernelManager):
            restore_kernels(self.backend, self.serverapp.kernel_manager)
            self._follow_sessions(self.serverapp.kernel_manager)

    def _follow_sessions(self, kernels: BackendAIMappingKernelManager) -> None:
        """Let whoever must know hear at once of what becomes of sessions."""
        assert self.serverapp is not None
        manager = self.backend.manager
        loop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined] # there is no other
        self.changes = self.settings["backendai_changes"] = Changes(manager.board, loop)
        kernels.adoption = Adoption(self.backend, kernels)
        self.changes.listen(kernels.adoption.look)  # first: what is dropped has not died
        self.changes.listen(Deaths(kernels).look)
        assert self.serverapp.event_logger is not None
        self.changes.listen(emitter(self.serverapp.event_logger, manager.viewer))
        self.backend.call_blocking(self.changes.open())

    def initialize_handlers(self) -> None:
        self.handlers.extend(routes)

    async def stop_extension(self) -> None:
        """Leave the kernels, or end them, before the backend that they run on stops.

        jupyter_server shuts kernels down only after its extensions.
        """
        assert self.serverapp is not None
        self.changes.close()
        await self.backend.call(self.changes.stop())
        await settle_all()
        await ensure_async(self.serverapp.kernel_manager.shutdown_all())
        await end_requests(getattr(self.serverapp, "http_server", None))
        if isinstance(self.serverapp.contents_manager, VFolderContentsManager):
            await self.serverapp.contents_manager.close()
        BACKENDS.serve(None)
        await asyncio.to_thread(self.backend.stop)
