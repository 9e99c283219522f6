"""``POST /api/kernels`` and ``POST /api/sessions`` with the optional ``backendai`` object.

Both take everything that the Jupyter Server's own handlers take.
"""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from jupyter_server.services.kernels.handlers import MainKernelHandler
from jupyter_server.services.sessions.handlers import SessionRootHandler
from jupyter_server.utils import ensure_async
from tornado import web

from backendai_jupyter.domain.options import Options
from backendai_jupyter.provisioning.requested import REQUESTED, Requested
from backendai_jupyter.web.base import DomainErrors


class KernelsHandler(DomainErrors, MainKernelHandler):
    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel; 400 names a malformed field of ``backendai``."""
        body = self.get_json_body() or {}
        REQUESTED.set(Requested(options=_options(body)))
        await ensure_async(super().post())


class JupyterSessionsHandler(DomainErrors, SessionRootHandler):
    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a Jupyter session; its notebook's metadata is read for ``backendai`` too."""
        body = self.get_json_body() or {}
        options = _options(body)
        notebook = body.get("path") if body.get("type") == "notebook" else None
        REQUESTED.set(Requested(options=options, notebook=notebook))
        await ensure_async(super().post())


def _options(body: dict[str, object]) -> Options | None:
    raw = body.get("backendai")
    return None if raw is None else Options.parse(raw)


routes = [
    (r"/api/kernels", KernelsHandler),
    (r"/api/sessions", JupyterSessionsHandler),
]
