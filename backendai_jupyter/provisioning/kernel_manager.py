"""The Jupyter Server's kernel managers, taught about sessions: options, ends, clean failures."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from jupyter_server.utils import ApiPath, ensure_async
from traitlets import default

from backendai_jupyter.domain.options import Options
from backendai_jupyter.errors import BackendError, InvalidInput, Unavailable
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.kernelspecs import DEFAULT_KERNEL, is_ours
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.provisioning.requested import REQUESTED, Requested, ServerRequest


class Restarter(AsyncIOLoopKernelRestarter):
    """Gives up at once where another attempt cannot help, instead of trying for ever."""

    async def poll(self) -> None:  # type: ignore[override] # as in the class above
        provisioner = self.kernel_manager.provisioner
        ended = isinstance(provisioner, BackendAIProvisioner) and provisioner.ended_for_good
        if ended and not self.kernel_manager.shutting_down:
            await self._give_up(await provisioner.poll())
            return
        try:
            await super().poll()
        except BackendError as error:
            self.kernel_manager.reason = str(error)
            await self._give_up(error)

    async def _give_up(self, why: object) -> None:
        self.log.error("Kernel is not started again: %s", why)
        self._fire_callbacks("dead")
        self.stop()


class _WithoutRefusals(logging.Filter):
    """Keeps to itself the tracebacks that jupyter_client logs, twice, of every failed start.

    An error of ours is told by whoever asked for the start: the request, or the restarter.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, BackendError)


class BackendAIKernelManager(ServerKernelManager):
    """Manages one kernel, local or ours."""

    restarter_class = Restarter


class BackendAIMappingKernelManager(AsyncMappingKernelManager):
    """Starts kernels with the options of the request and of the notebook."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call] # no types in the base
        self._stopping = False
        self.log = self.log.getChild("kernels")  # the managers of single kernels log to it too
        self.log.addFilter(_WithoutRefusals())

    async def _async_start_kernel(
        self, *, kernel_id: str | None = None, path: str | None = None, **kwargs: Any
    ) -> str:
        name = kwargs.get("kernel_name") or self.default_kernel_name
        requested = REQUESTED.get() or Requested()
        if self._is_ours(name):
            kwargs["backendai"] = await self._server_request(requested, path)
        elif requested.options is not None:
            raise InvalidInput("backendai", f"kernel {name!r} does not run on Backend.AI")
        kernel_id = kernel_id or self.new_kernel_id(**kwargs)
        existed = kernel_id in self
        try:
            directory = None if path is None else ApiPath(path)
            started: str = await super()._async_start_kernel(
                kernel_id=kernel_id, path=directory, **kwargs
            )
        except BaseException as error:
            if not existed:
                # Left as they are, these would keep the server from ever shutting down.
                self._pending_kernels.pop(kernel_id, None)
                self._kernels.pop(kernel_id, None)
            if self._stopping and isinstance(error, asyncio.CancelledError):
                raise Unavailable("The kernel does not start: its server is stopping.") from error
            raise
        return started

    start_kernel = _async_start_kernel  # type: ignore[assignment] # as the class above does

    async def _async_shutdown_all(self, now: bool = False) -> None:
        """Give up the starts under way, then shut down the kernels.

        To jupyter_server a kernel that is still starting does not exist: its 404 would keep the
        server from ever stopping.
        """
        self._stopping = True
        starting: list[Any] = list(self._pending_kernels.values())
        for start in starting:
            start.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await super()._async_shutdown_all(now=now)

    shutdown_all = _async_shutdown_all  # type: ignore[assignment] # as the class above does

    @default("default_kernel_name")
    def _ours_where_local_ones_are_hidden(self) -> str:
        hidden = BACKENDS.backend.settings.hide_local_kernelspecs
        return DEFAULT_KERNEL if hidden else NATIVE_KERNEL_NAME

    def cwd_for_path(self, path: str, **kwargs: Any) -> str:
        """Return where on this host a local kernel works for a contents path."""
        assert self.parent is not None
        directory: str = self.parent.contents_manager.host_directory(path)
        return directory

    def _is_ours(self, kernel_name: str) -> bool:
        assert self.kernel_spec_manager is not None
        return is_ours(self.kernel_spec_manager.get_kernel_spec(kernel_name))

    async def _server_request(self, requested: Requested, path: str | None) -> ServerRequest:
        layers = []
        if requested.notebook is not None:
            layers.append(await self._options_of(requested.notebook))
        if requested.options is not None:
            layers.append(requested.options)
        return ServerRequest(tuple(layers), path or "", requested.notebook)

    async def _options_of(self, notebook: str) -> Options:
        """Return what the metadata of a notebook asks for; a new one asks for nothing."""
        assert self.parent is not None
        contents = self.parent.contents_manager
        if not await ensure_async(contents.file_exists(notebook)):
            return Options()
        model = await ensure_async(contents.get(notebook, content=True, type="notebook"))
        metadata = model["content"]["metadata"]
        if "backendai" not in metadata:
            return Options()
        return Options.parse(metadata["backendai"], field="metadata.backendai")
