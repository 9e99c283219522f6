"""The Jupyter Server's kernel managers, taught about sessions: options, ends, clean failures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from typing import TYPE_CHECKING, Any

import zmq.asyncio
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_events import EventLogger
from jupyter_server._tz import utcnow
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from jupyter_server.utils import ApiPath, ensure_async
from tornado.ioloop import IOLoop
from traitlets import default

from backendai_jupyter.agent.relay.pace import Traffic
from backendai_jupyter.domain.options import Options
from backendai_jupyter.errors import BackendError, Cancelled, Conflict, InvalidInput, Unavailable
from backendai_jupyter.manager.survivors import Survivor
from backendai_jupyter.provisioning.activity import follow, journal_of
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.culling import may_cull
from backendai_jupyter.provisioning.kernelspecs import DEFAULT_KERNEL, is_ours
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.provisioning.requested import REQUESTED, Requested, ServerRequest
from backendai_jupyter.provisioning.restarter import Restarter
from backendai_jupyter.supervisor import Supervisor

if TYPE_CHECKING:
    from backendai_jupyter.provisioning.adoption import Adoption

_MAX_SOCKETS = 16_384  # of ZeroMQ; each kernel that somebody looks at takes three


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
    watching: asyncio.Task[None] | None = None  # follows what the kernel does

    @default("event_logger")
    def _logger_of_all(self) -> EventLogger:
        """Register the schemas once: to do it for each kernel takes a file to open, and time."""
        kernels: Any = self.parent
        if kernels.event_logger is None:
            kernels.event_logger = super()._default_event_logger()
        logger: EventLogger = kernels.event_logger
        return logger

    def restore(
        self, kernel_id: str, survivor: Survivor, request: ServerRequest, backend: Backend
    ) -> None:
        """Become the manager of a kernel that runs."""
        self.kernel_id = kernel_id
        self._attempted_start = True
        arguments: dict[str, Any] = {"backendai": request, "env": {}}
        self._launch_args = arguments
        factory = KernelProvisionerFactory.instance(parent=self.parent)
        self.provisioner = factory.create_provisioner_instance(
            kernel_id, self.kernel_spec, parent=self
        )
        if not isinstance(self.provisioner, BackendAIProvisioner):
            raise Conflict(f"The kernelspec {self.kernel_name!r} is not for Backend.AI any more.")
        self.load_connection_info(self.provisioner.restore(survivor, backend))
        self.write_connection_file()
        self._connect_control_socket()
        self._ready = concurrent.futures.Future()  # the event loop may not run yet
        self._ready.set_result(None)

    async def abort_restart(self) -> None:
        """Give up a restart that is under way; to jupyter_client the kernel failed to start."""
        if isinstance(self._restarter, Restarter):
            await self._restarter.abort()
        if not self.ready.done():
            self.ready.set_exception(Cancelled("It is not started again: its end was asked for."))
            self.ready.exception()  # so that nobody complains that it was never asked for

    def tell_end(self) -> None:
        """Say that the kernel is no more to those who follow its restarts."""
        if isinstance(self._restarter, Restarter):
            self._restarter.end()

    def keep(self) -> None:
        """Be as before a shutdown that could not be carried out, so that it can be asked again."""
        self.shutting_down = False
        self.start_restarter()
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.set_result(None)

    async def give_up(self) -> None:
        """Forget the kernel, whose program is no more; nobody shall start it again."""
        try:
            if isinstance(self.provisioner, BackendAIProvisioner):
                await self.provisioner.give_up(self.reason)
        finally:
            self.cleanup_connection_file()
            self.leave()

    def leave(self) -> None:
        """Forget the kernel, which goes on; its connection file stays."""
        self.stop_restarter()
        self._close_control_socket()
        self._connection_file_written = False
        if isinstance(self.provisioner, BackendAIProvisioner):
            self.provisioner.leave()


class BackendAIMappingKernelManager(AsyncMappingKernelManager):
    """Starts kernels with the options of the request and of the notebook."""

    event_logger: EventLogger | None = None  # of the managers of single kernels
    adoption: Adoption | None = None  # in a cluster

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call] # no types in the base
        self.stopping = False
        self.supervisor = Supervisor()  # of tasks on the server's loop
        self.traffic = Traffic()  # on it
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
            if self.stopping and isinstance(error, asyncio.CancelledError):
                raise Unavailable("The kernel does not start: its server is stopping.") from error
            raise
        await self._know_subs(started)
        return started

    async def _know_subs(self, kernel_id: str) -> None:
        """Have the other kernels of a session that has just started, too."""
        manager: Any = self._kernels.get(kernel_id)
        place = getattr(getattr(manager, "provisioner", None), "place", None)
        if place is not None:
            await asyncio.gather(*(self.catch_up(sub) for sub in place.subs))

    start_kernel = _async_start_kernel  # type: ignore[assignment] # as the class above does

    def restore(
        self, survivor: Survivor, request: ServerRequest, backend: Backend, *, state: str
    ) -> None:
        """Register a kernel that a server before this one had started, as if we had.

        The event loop need not run yet.
        """
        kernel_id = self._register(survivor, request, backend, state=state)
        self.log.info("Kernel of the former server: %s", kernel_id)
        IOLoop.current().add_callback(self._go_on, kernel_id, state)

    async def adopt(
        self, survivor: Survivor, request: ServerRequest, backend: Backend, *, state: str
    ) -> None:
        """Register a kernel that another server has started, as if we had."""
        kernel_id = self._register(survivor, request, backend, state=state)
        self.log.info("Kernel of another server: %s", kernel_id)
        await self._go_on(kernel_id, state)

    def _register(
        self, survivor: Survivor, request: ServerRequest, backend: Backend, *, state: str
    ) -> str:
        wanted = {"kernel_id": survivor.name}
        manager: Any
        manager, _, kernel_id = self.pre_start_kernel(survivor.session.kernelspec, wanted)
        manager.restore(kernel_id, survivor, request, backend)
        manager.execution_state = state
        manager.reason = ""
        manager.last_activity = utcnow()
        self._kernels[kernel_id] = manager
        self._kernel_connections[kernel_id] = 0
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=manager.kernel_name).inc()
        return kernel_id

    async def catch_up(self, kernel_id: str | None = None) -> None:
        """Know a kernel, or all, that another server of the cluster has started or ended."""
        if self.adoption is not None:
            await self.adoption.catch_up(kernel_id)

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        """Return what the REST API says of a kernel, also while another server starts it."""
        starting = [model for model in self._starting() if model["id"] == kernel_id]
        if starting:
            return starting[0]
        model: dict[str, Any] = super().kernel_model(kernel_id)  # type: ignore[no-untyped-call]
        place = getattr(getattr(self._kernels[kernel_id], "provisioner", None), "place", None)
        return {**model, "backendai": place.to_json()} if place else model

    def list_kernels(self) -> list[dict[str, Any]]:
        listed = super().list_kernels()  # type: ignore[no-untyped-call] # its base
        return [*listed, *self._starting()]

    def _starting(self) -> list[dict[str, Any]]:
        return [] if self.adoption is None else self.adoption.starting(besides=self._kernels)

    async def drop(self, kernel_id: str) -> None:
        """Forget a kernel that somebody else has ended, and tell whoever uses it here."""
        manager: Any = self._kernels.get(kernel_id)
        if manager is None:
            return
        manager.provisioner.leave()
        await manager.abort_restart()
        if kernel_id not in self:
            return  # somebody else has done it meanwhile
        manager.tell_end()
        if self._kernels.get(kernel_id) is manager:  # nobody listened yet
            self._handle_kernel_died(kernel_id)

    def _handle_kernel_died(self, kernel_id: str) -> None:
        """Forget a kernel that is not started again, and all that there is of it."""
        manager: Any = self._kernels.get(kernel_id)
        if manager is None:
            return
        self.stop_watching_activity(kernel_id)
        self.stop_buffering(kernel_id)  # type: ignore[no-untyped-call] # its base
        self._kernel_connections.pop(kernel_id, None)
        self._kernel_ports.pop(kernel_id, None)
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=manager.kernel_name).dec()
        super()._handle_kernel_died(kernel_id)  # type: ignore[no-untyped-call] # its base
        self.supervisor.task(f"end {kernel_id}", manager.give_up())

    async def _go_on(self, kernel_id: str, state: str) -> None:
        """Do for a registered kernel what jupyter_server does when one has started."""
        manager: Any = self._kernels.get(kernel_id)
        if manager is None:
            return  # it has ended meanwhile
        manager.start_restarter()
        await self._finish_kernel_start(kernel_id)  # type: ignore[no-untyped-call] # its base
        manager.execution_state = state
        self.initialize_culler()  # type: ignore[no-untyped-call] # its base

    async def _async_shutdown_kernel(
        self, kernel_id: str, now: bool | None = False, restart: bool | None = False
    ) -> None:
        """Shut a kernel down; where that cannot be written down now, it is still there after.

        jupyter_client would forget it at the next attempt, and our session would go on.  A restart
        that is under way is given up first: two at once would undo each other's work.
        """
        is_elsewhere = kernel_id not in self and self.adoption is not None
        if is_elsewhere and await self.adoption.end_starting(kernel_id):  # type: ignore[union-attr]
            return
        manager: Any = self._kernels.get(kernel_id)
        if isinstance(manager, BackendAIKernelManager):
            await manager.abort_restart()
        try:
            await super()._async_shutdown_kernel(  # type: ignore[no-untyped-call] # its base
                kernel_id, now=now, restart=restart
            )
        except BackendError:
            self._pending_kernels.pop(kernel_id, None)
            if isinstance(manager, BackendAIKernelManager):
                manager.keep()
                KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=manager.kernel_name).inc()
                self.start_watching_activity(kernel_id)
            raise

    shutdown_kernel = _async_shutdown_kernel  # type: ignore[assignment] # as the class above does

    async def _async_shutdown_all(self, now: bool = False) -> None:
        """Give up the starts under way, then shut down the kernels that do not outlive the server.

        To jupyter_server a kernel that is still starting does not exist: its 404 would keep the
        server from ever stopping.
        """
        self.stopping = True
        starting: list[Any] = list(self._pending_kernels.values())
        for start in starting:
            start.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        managers = [m for m in self._kernels.values() if isinstance(m, BackendAIKernelManager)]
        if not BACKENDS.backend.settings.end_kernels_with_server:
            for kernel_id in list(self._kernels):
                self._leave(kernel_id)
        await asyncio.gather(*(manager.abort_restart() for manager in managers))
        try:
            await super()._async_shutdown_all(now=now)
        except BackendError as error:  # a full disk, say, must not keep a server from stopping
            self.log.error("Kernels are left to end with their backend: %s", error)
            for kernel_id in list(self._kernels):
                self._leave(kernel_id)
        await self.supervisor.close()

    shutdown_all = _async_shutdown_all  # type: ignore[assignment] # as the class above does

    def start_watching_activity(self, kernel_id: str) -> None:
        """Keep the state of a kernel up to date, for ours without a copy of its output."""
        if journal_of(self, kernel_id)() is None:
            super().start_watching_activity(kernel_id)  # type: ignore[no-untyped-call] # its base
            return
        manager: Any = self._kernels[kernel_id]
        manager.reason = ""
        manager.last_activity = utcnow()
        manager.watching = self.supervisor.task(f"watch {kernel_id}", follow(self, manager))

    def stop_watching_activity(self, kernel_id: str) -> None:
        manager: Any = self._kernels[kernel_id]
        if manager.watching is not None:
            manager.watching.cancel()
            manager.watching = None
        super().stop_watching_activity(kernel_id)  # type: ignore[no-untyped-call] # its base

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """Leave a kernel alone that is in use elsewhere, or whose session is in use."""
        if await may_cull(self, kernel_id):
            await super().cull_kernel_if_idle(kernel_id)  # type: ignore[no-untyped-call] # its base

    def _leave(self, kernel_id: str) -> None:
        """Let a kernel of ours go on without this server."""
        manager: Any = self._kernels[kernel_id]
        if isinstance(manager.provisioner, BackendAIProvisioner):
            self.stop_watching_activity(kernel_id)
            manager.leave()
            del self._kernels[kernel_id]

    @default("context")
    def _context_default(self) -> zmq.asyncio.Context:
        """ZeroMQ's own limit would turn away whoever opens the 340th kernel."""
        context: zmq.asyncio.Context = super()._context_default()
        context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        return context

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
