"""The server extension: wires the backend into a Jupyter Server, and nothing else."""

from __future__ import annotations

import asyncio

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import ensure_async
from traitlets import TraitError

from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.errors import BackendError
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.kernel_manager import (
    BackendAIKernelManager,
    BackendAIMappingKernelManager,
)
from backendai_jupyter.provisioning.kernelspecs import BackendAIKernelSpecManager
from backendai_jupyter.web.routes import routes


class BackendAIExtension(ExtensionApp):
    """Makes a Jupyter Server the manager of a Backend.AI cluster."""

    name = "backendai_jupyter"
    extension_url = "/lab"
    load_other_extensions = True
    classes = [BackendAI, BackendAIAgent]  # noqa: RUF012 - the base class declares it so

    backend: Backend

    def _link_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """Choose the server's managers; the only moment before they are made.

        The backend starts here as well: contents and kernelspecs are asked for at once.
        """
        try:
            self.backend = Backend(serverapp.config)
            self.backend.start()
        except (BackendError, TraitError, OSError) as error:
            # jupyter_server would go on without us, and show its own files in place of folders.
            raise SystemExit(f"The Backend.AI extension cannot start. {error}") from error
        BACKENDS.serve(self.backend)
        serverapp.kernel_manager_class = BackendAIMappingKernelManager
        serverapp.kernel_spec_manager_class = BackendAIKernelSpecManager
        serverapp.contents_manager_class = VFolderContentsManager
        manager_name = f"{BackendAIKernelManager.__module__}.{BackendAIKernelManager.__name__}"
        serverapp.config.MappingKernelManager.kernel_manager_class = manager_name
        super()._link_jupyter_server_extension(serverapp)

    def initialize_settings(self) -> None:
        self.settings["backendai_backend"] = self.backend

    def initialize_handlers(self) -> None:
        self.handlers.extend(routes)

    async def stop_extension(self) -> None:
        """End the kernels before the backend that they run on.

        jupyter_server shuts kernels down only after its extensions.
        """
        assert self.serverapp is not None
        await ensure_async(self.serverapp.kernel_manager.shutdown_all())
        if isinstance(self.serverapp.contents_manager, VFolderContentsManager):
            await self.serverapp.contents_manager.close()
        BACKENDS.serve(None)
        await asyncio.to_thread(self.backend.stop)
