"""The provisioner: Jupyter asks it for a kernel, it asks the manager for a compute session.

jupyter_client calls these methods in the order ``pre_launch``, ``launch_kernel``, then
``poll`` many times a second, and ``send_signal``, ``kill``, ``wait``, ``cleanup`` around
the end; one provisioner serves all restarts of its kernel.  See
https://jupyter-client.readthedocs.io/en/stable/provisioning.html.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Dict, Unicode

from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.errors import (
    Cancelled,
    Conflict,
    InvalidInput,
    LostRace,
    NotFound,
    TimedOut,
)
from backendai_jupyter.manager.board import Notice
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.survivors import Survivor
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.notebook import calling_notebook_metadata
from backendai_jupyter.provisioning.place import Place
from backendai_jupyter.provisioning.requested import ServerRequest
from backendai_jupyter.supervisor import uninterrupted

_FAILED_PATIENCE_S = 3.0  # whoever waits for a start wants to know soon that it failed
_OTHERS_WITHIN_S = 1.5  # whoever has asked for a program's end has done the rest
_CONFIG = ("image", "resources")  # what a kernelspec may say in its provisioner's config


class BackendAIProvisioner(KernelProvisionerBase):
    """One kernel of Jupyter's, as one compute session of ours."""

    image = Unicode(help="Name of the image, as its labels and ``image ls`` give it.")
    resources: Dict[str, Any] = Dict(help="Default slots, e.g. ``{'cpu': 1, 'mem': '1g'}``.")

    def __init__(self, **kwargs: Any) -> None:
        known = {*self.trait_names(), "kernel_id", "kernel_spec", "parent"}
        for name in kwargs.keys() - known:
            where = f"metadata.kernel_provisioner.config.{name}"
            raise InvalidInput(where, f"unknown in a kernelspec; known are {', '.join(_CONFIG)}")
        super().__init__(**kwargs)
        # The base class has a mutable class attribute, which kernels would share.
        self.connection_info: KernelConnectionInfo = {}
        self._backend: Backend | None = None
        self.place: Place | None = None  # what of ours this is, once it was asked for
        self._request: Request | None = None
        self._generation = 1
        self._connection: Connection | None = None  # known while the kernel has channels
        self._ended = True  # no program of ours is known to be there
        self._expected = False  # its end was asked for through us
        self._failed = False  # its last start
        self._left = False
        self._end_seen: tuple[int, float] = (0, 0.0)  # generation that has ended, since when

    @property
    def has_process(self) -> bool:
        return self.place is not None and not self._ended

    @property
    def journal(self) -> Connection | None:
        """How the kernel's journal is reached, as last reported; None if it has none."""
        notice = self._notice()
        reported = None if notice is None else notice.connection
        latest = reported or self._connection
        return None if latest is None or latest.journal_socket is None else latest

    @property
    def ended_for_good(self) -> bool:
        """Whether the session was ended by somebody else, so that it must not be revived."""
        notice = self._notice()
        return notice is not None and notice.status in {*FINAL, Status.TERMINATING}

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Turn what jupyter_client knows into a request; takes no resources yet."""
        try:
            self._request = await self._make_request(kwargs)
        except BaseException:
            await self.cleanup(restart=False)
            raise
        return {"cmd": list(self._request.argv), "env": {}}

    async def _make_request(self, kwargs: dict[str, Any]) -> Request:
        if self.kernel_spec is None:
            raise NotFound("There is no kernelspec to start.")
        extra_arguments = kwargs.pop("extra_arguments", None) or []
        cwd = kwargs.pop("cwd", None)
        server: ServerRequest | None = kwargs.pop("backendai", None)
        environ = kwargs.pop("env", None) or dict(os.environ)
        defaults = Options(resources=Slots.parse(self.resources, field="resources"))
        layers = _batch_layers() if server is None else server.layers
        backend = await self._get_backend()
        return Request(
            kernelspec=self.parent.kernel_name if self.parent else "",
            image=self.image,
            argv=(*self.kernel_spec.argv, *extra_arguments),
            defaults=defaults,
            layers=layers,
            env={**_passed_through(environ, backend), **self.kernel_spec.env},
            contents_path=None if server is None else server.directory,
            host_dir=_host_dir(cwd, backend) if server is None else None,
            notebook=None if server is None else server.notebook,
            kernel_id=self.kernel_id,
            for_server=server is not None,
        )

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the session, or its next generation, and wait until the kernel answers."""
        backend = await self._get_backend()
        self._expected = self._failed = False
        try:
            connection = await self._start(backend)
        except BaseException:
            # Also when the caller is cancelled: nobody else knows of the session yet.
            self._failed = True
            await self.cleanup(restart=False)
            raise
        self._ended = False
        self._connection = connection
        self.connection_info = _for_jupyter(connection)
        return self.connection_info

    async def poll(self) -> int | None:
        """Return None while the kernel runs, or while nothing certain is known of it."""
        notice = self._notice()
        if notice is None or notice.generation < self._generation:
            return None
        if not self.follow(notice.generation):
            return 0  # the program that we are ending is not there any more
        code = notice.exit_code
        if code is not None and not self._expected:
            self._tell_why(notice)
        return code

    def follow(self, generation: int) -> bool:
        """Take note that another server has restarted the kernel, if it has.

        False while this one ends or restarts an older program: ``restart`` finds out then.
        """
        if generation <= self._generation:
            return True
        if self.parent is not None and self.parent.shutting_down:
            return False
        self._generation = generation
        self._ended = self._expected = False
        if self.parent is not None:
            self.parent.reason = ""
        return True

    @property
    def is_left_to_others(self) -> bool:
        """Whether another server may have asked for the end of the program, and do the rest.

        It ends or restarts the session at once; where it does not, it is not there any more.
        """
        notice, backend = self._notice(), self._backend
        if notice is None or backend is None or not backend.settings.in_cluster:
            return False
        if not notice.ended_as_if_asked or self.ended_for_good:
            return False
        now_s = time.monotonic()
        if self._end_seen[0] != notice.generation:
            self._end_seen = (notice.generation, now_s)
        return now_s - self._end_seen[1] < _OTHERS_WITHIN_S

    async def wait(self) -> int | None:
        """Take note that the program has ended; jupyter_client has polled for it before."""
        code = await self.poll()
        self._ended = True
        return code

    async def send_signal(self, signum: int) -> None:
        if signum == 0:
            return
        await self._deliver(signum)

    async def kill(self, restart: bool = False) -> None:
        self._expected = True
        await self._deliver(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        self._expected = True
        await self._deliver(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """The kernel has been asked to end; it is given the time to run ``atexit``."""
        self._expected = True

    async def cleanup(self, restart: bool = False) -> None:
        """End the session, unless its kernel is only about to be restarted; idempotent.

        If that cannot be written down now, the session stays this kernel's: try again later.
        """
        backend = self._backend
        if restart or backend is None:
            return
        if self.place is not None:
            await self._end(backend, self.place)
        if self._backend is not backend:
            return  # another call has done it meanwhile
        self._backend = None
        self._ended = True
        await BACKENDS.release(backend)

    def restore(self, survivor: Survivor, backend: Backend) -> KernelConnectionInfo:
        """Take over a session that was started for this kernel by a server before this one."""
        self._backend = backend
        self._be(survivor.session, survivor.kernel)
        self._ended = False
        self._connection = survivor.connection
        self.connection_info = _for_jupyter(survivor.connection)
        return self.connection_info

    async def give_up(self, reason: str) -> None:
        """End the session of a program that died too often, unless it is over already."""
        backend = self._backend
        place = self.place
        if backend is None or place is None or place.is_sub or self.ended_for_good:
            return
        sessions = backend.manager.sessions
        why = reason or "Its program died again and again."
        await backend.call(sessions.terminate(place.session_id, backend.manager.viewer, reason=why))

    def leave(self) -> None:
        """Let the session go on without this kernel manager, for the next server."""
        self._backend = None
        self._ended = self._left = True

    async def get_provisioner_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await super().get_provisioner_info()
        session_id = None if self.place is None else self.place.session_id
        info.update(session_id=session_id, generation=self._generation)
        return info

    async def _start(self, backend: Backend) -> Connection:
        assert self._request is not None
        sessions = backend.manager.sessions
        place = self.place
        if place is not None and not self.ended_for_good:
            restarting = sessions.restart(
                place.kernel_id, backend.manager.viewer, generation=self._generation
            )
            try:
                self._generation = await backend.call(restarting)
            except LostRace:
                return await self._restarted(backend, place.kernel_id)
        elif place is not None and place.is_sub:
            raise Conflict("A kernel beside main1 starts with its session only.")
        else:
            place = await uninterrupted(self._enqueue(backend, self._request))
        waiting = sessions.until_running(place.kernel_id, generation=self._generation)
        return await backend.call(waiting)

    async def _restarted(self, backend: Backend, member_id: str) -> Connection:
        """Wait for the program that another server has just asked for."""
        restarted = backend.manager.sessions.until_restarted(member_id, after=self._generation)
        self._generation, connection = await backend.call(restarted)
        return connection

    async def _enqueue(self, backend: Backend, request: Request) -> Place:
        enqueued = backend.manager.sessions.enqueue(request, backend.manager.viewer)
        session = await backend.call(enqueued)
        place = self._be(session, session.main)
        if not request.for_server:
            await backend.call(backend.manager.claims.add(session.id))
        return place

    def _be(self, session: ComputeSession, kernel: Kernel) -> Place:
        """Be this kernel of this session from now on."""
        self._generation = kernel.generation
        self.place = place = Place.of(session, kernel)
        return place

    async def _end(self, backend: Backend, place: Place) -> None:
        sessions = backend.manager.sessions
        patience_s = backend.settings.end_timeout_s
        if self._failed:
            patience_s = min(patience_s, _FAILED_PATIENCE_S)
        viewer, reason = backend.manager.viewer, "Its owner shut it down."
        if place.is_sub:
            ending = sessions.terminate_kernel(place.kernel_id, viewer, reason=reason)
        else:
            ending = sessions.terminate(place.session_id, viewer, reason=reason)
        try:
            await backend.call(ending)
            gone = sessions.until_gone(place.kernel_id, *place.subs, timeout_s=patience_s)
            await backend.call(gone)
        except TimedOut as error:
            self.log.warning("%s", error)  # the agent goes on trying by itself

    async def _deliver(self, signum: int) -> None:
        """Deliver a signal; a kernel that is gone is no error, as ``kill`` must not raise.

        It is not for the next program, which another server may have started meanwhile.
        """
        backend, place = self._backend, self.place
        if backend is None or place is None or self._is_gone():
            return
        try:
            await backend.call(
                backend.manager.sessions.signal(place.kernel_id, signum, backend.manager.viewer)
            )
        except (Conflict, NotFound) as error:
            self.log.debug("%s", error)

    def _is_gone(self) -> bool:
        notice = self._notice()
        if notice is None or notice.generation < self._generation:
            return False
        return not self.follow(notice.generation) or notice.exit_code is not None

    async def _get_backend(self) -> Backend:
        if self._left:  # and whoever restarts it has not noticed
            raise Cancelled("The kernel is not this server's to start any more.")
        if self._backend is None:
            self._backend = await BACKENDS.acquire(self.config)
        return self._backend

    def _notice(self) -> Notice | None:
        if self._backend is None or self.place is None:
            return None
        return self._backend.manager.board.get(self.place.kernel_id)

    def _tell_why(self, notice: Notice) -> None:
        """Say once why the kernel ended: in the log, and as ``reason`` in Jupyter's REST API."""
        self._expected = True
        reason = notice.reason or "The kernel ended."
        self.log.error("Kernel %s: %s", self.kernel_id, reason)
        if self.parent is not None:
            self.parent.reason = reason


def _passed_through(environ: Mapping[str, str], backend: Backend) -> dict[str, str]:
    """Return the variables that the administrator lets through."""
    allowed = backend.settings.env_passthrough
    return {name: environ[name] for name in allowed if name in environ}


def _host_dir(cwd: str | None, backend: Backend) -> Path | None:
    if not backend.settings.mount_working_directory:
        return None
    return Path(cwd or ".").resolve()


def _batch_layers() -> list[Options]:
    """The layers of a tool that has no server: the notebook's metadata, then the environment."""
    metadata = calling_notebook_metadata()
    layers = [Options.from_environment(os.environ)]
    if "backendai" in metadata:
        layers.insert(0, Options.parse(metadata["backendai"], field="metadata.backendai"))
    return layers


def _for_jupyter(connection: Connection) -> KernelConnectionInfo:
    """jupyter_client compares these exactly: ``key`` must be bytes, curve keys strings."""
    fields = connection.model_dump(exclude_none=True, exclude={"journal_socket", "journal_door"})
    info = {**fields, "key": connection.key.encode()}
    return cast("KernelConnectionInfo", info)  # its type is wrong about the key
