"""``POST /api/kernels`` and ``POST /api/sessions`` with the optional ``backendai`` object.

Both take everything that the Jupyter Server's own handlers take.  A start ends with the
connection of whoever asked for it: nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.services.kernels.handlers import (
    KernelActionHandler,
    KernelHandler,
    MainKernelHandler,
)
from jupyter_server.services.sessions.handlers import SessionHandler, SessionRootHandler
from jupyter_server.utils import ensure_async
from tornado import web

from backendai_jupyter.domain.options import Options
from backendai_jupyter.errors import BackendError, Cancelled
from backendai_jupyter.provisioning.adoption import catch_up
from backendai_jupyter.provisioning.requested import REQUESTED, Requested
from backendai_jupyter.supervisor import race
from backendai_jupyter.web.base import DomainErrors


class EndsWithItsClient(DomainErrors):
    """Gives up the start that it waits for when its client has gone."""

    _gone: asyncio.Event | None = None

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for ``work``, which starts a kernel, for as long as somebody wants it."""
        self._gone = asyncio.Event()
        await race(work, self._until_gone(self._gone))

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._gone is not None:
            self._gone.set()

    async def _until_gone(self, gone: asyncio.Event) -> None:
        await gone.wait()
        raise Cancelled("Whoever asked for it closed the connection while it started.")


class KernelsHandler(EndsWithItsClient, MainKernelHandler):
    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the kernels, also those that other servers of the cluster have started."""
        await catch_up(self.kernel_manager)
        await ensure_async(super().get())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel; 400 names a malformed field of ``backendai``."""
        body = self.get_json_body() or {}
        if isinstance(kernel_id := body.get("kernel_id"), str):
            await catch_up(self.kernel_manager, kernel_id)
        REQUESTED.set(Requested(options=_options(body)))
        await self.start(ensure_async(super().post()))


class OneKernelHandler(DomainErrors, KernelHandler):
    """Jupyter's, with our answer where a kernel cannot be ended now."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """Return a kernel, whichever server of the cluster has started it."""
        await catch_up(self.kernel_manager, kernel_id)
        await ensure_async(super().get(kernel_id))

    @web.authenticated
    @authorized
    async def delete(self, kernel_id: str) -> None:
        """Shut a kernel down."""
        await catch_up(self.kernel_manager, kernel_id)
        await ensure_async(super().delete(kernel_id))


class OneKernelActionHandler(DomainErrors, KernelActionHandler):
    """Jupyter's, with our answer where a kernel cannot be interrupted or restarted now."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str, action: str) -> None:
        """Interrupt or restart a kernel."""
        await catch_up(self.kernel_manager, kernel_id)
        self.kernel_manager.get_kernel(kernel_id)  # else a restart of none would answer 500
        await ensure_async(super().post(kernel_id, action))


class JupyterSessionsHandler(EndsWithItsClient, SessionRootHandler):
    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the Jupyter sessions, whichever servers of the cluster run their kernels."""
        await catch_up(self.kernel_manager)
        await ensure_async(super().get())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a Jupyter session; its notebook's metadata is read for ``backendai`` too."""
        body = self.get_json_body() or {}
        options = _options(body)
        notebook = await self._notebook_of(body)
        REQUESTED.set(Requested(options=options, notebook=notebook))
        await self.start(ensure_async(super().post()))

    async def _notebook_of(self, body: Mapping[str, object]) -> str | None:
        """Return the contents path of the notebook that a session is asked for.

        JupyterLab sends a path whose last part it has made up, and the real one in ``name``.
        """
        path, name = body.get("path"), body.get("name")
        if body.get("type") != "notebook" or not isinstance(path, str):
            return None
        beside = f"{path.rpartition('/')[0]}/{name}".lstrip("/")
        for candidate in (path, beside) if isinstance(name, str) and name else (path,):
            if await ensure_async(self.contents_manager.file_exists(candidate)):
                return candidate
        return path


class JupyterSessionHandler(EndsWithItsClient, SessionHandler):
    @web.authenticated
    @authorized
    async def patch(self, session_id: str) -> None:
        """Change a Jupyter session; a new kernel for it reads the notebook's metadata too."""
        body = self.get_json_body() or {}
        session: Any = await self.session_manager.get_session(session_id=session_id)
        notebook = session["path"] if session["type"] == "notebook" else None
        REQUESTED.set(Requested(options=_options(body), notebook=notebook))
        await self.start(ensure_async(super().patch(session_id)))

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        """Let an error of ours be answered as everywhere else.

        jupyter_server catches whatever kept the new kernel from starting, and says 501.
        """
        error = sys.exception()
        if self.get_status() == HTTPStatus.NOT_IMPLEMENTED and isinstance(error, BackendError):
            raise error
        return super().finish(*args, **kwargs)


def _options(body: dict[str, object]) -> Options | None:
    raw = body.get("backendai")
    return None if raw is None else Options.parse(raw)


_KERNEL_ID = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"

routes = [
    (r"/api/kernels", KernelsHandler),
    (rf"/api/kernels/{_KERNEL_ID}", OneKernelHandler),
    (rf"/api/kernels/{_KERNEL_ID}/(?P<action>restart|interrupt)", OneKernelActionHandler),
    (r"/api/sessions", JupyterSessionsHandler),
    (r"/api/sessions/(?P<session_id>\w+-\w+-\w+-\w+-\w+)", JupyterSessionHandler),
]
