"""Session managers of Jupyter Servers over one database, with kernels that are only rows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from jupyter_client.kernelspec import KernelSpec
from tornado import web
from traitlets import Any as AnyTrait

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.jupyter_sessions import BackendAISessionManager
from backendai_jupyter.provisioning.kernelspecs import PROVISIONER
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.jupyter_sessions import JupyterSessionStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.samples import new_session

T = TypeVar("T")

OURS, LOCAL = "ours", "local"
_SPECS = {
    OURS: KernelSpec(metadata={"kernel_provisioner": {"provisioner_name": PROVISIONER}}),
    LOCAL: KernelSpec(),
}


class SharedBackend:
    """What session managers need of a ``Backend``; ``broken`` while its database is away."""

    def __init__(self, database: Database, viewer: Viewer) -> None:
        self.manager = SimpleNamespace(
            viewer=viewer, jupyter_sessions=JupyterSessionStore(database)
        )
        self.compute = SessionStore(database)
        self.broken = False

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        if self.broken:
            work.close()
            raise Unavailable("The database is away.")
        return await work

    def as_backend(self) -> Backend:
        return cast(Backend, self)


class KernelsOfOneServer:
    """Kernels that this server has registered; those of ours are compute sessions too."""

    def __init__(self, backend: SharedBackend) -> None:
        self.names: dict[str, str] = {}  # of kernelspecs, by kernel id
        self.env: dict[str, str] = {}
        self.ended: list[str] = []
        self.gate = asyncio.Event()  # starts wait for it
        self.gate.set()
        self._backend = backend

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.names

    def get_kernel(self, kernel_id: str) -> Any:
        return SimpleNamespace(kernel_spec=_SPECS[self.names[kernel_id]])

    def kernel_model(self, kernel_id: str) -> dict[str, str]:
        return {"id": kernel_id, "name": self.names[kernel_id]}

    def cwd_for_path(self, path: str) -> str:
        return "/srv"

    def update_env(self, *, kernel_id: str, env: dict[str, str]) -> None:
        self.env[kernel_id] = env["JPY_SESSION_NAME"]

    async def start_kernel(
        self, *, kernel_name: str | None, kernel_id: str | None, **_: Any
    ) -> str:
        await self.gate.wait()
        kernel_id = kernel_id or str(uuid.uuid4())
        if kernel_name != LOCAL:
            owner = self._backend.manager.viewer.user_id
            new = new_session(id=kernel_id, owner=owner, jupyter_kernel_id=kernel_id)
            await self._backend.compute.create(new, now=1.0)
        self.names[kernel_id] = kernel_name or OURS
        return kernel_id

    async def shutdown_kernel(self, kernel_id: str) -> None:
        if kernel_id not in self.names:
            raise web.HTTPError(404, f"Kernel does not exist: {kernel_id}")
        if self.names[kernel_id] != LOCAL:
            await self._backend.call(self._terminate(kernel_id))
        del self.names[kernel_id]
        self.ended.append(kernel_id)

    async def _terminate(self, kernel_id: str) -> None:
        viewer = self._backend.manager.viewer
        await self._backend.compute.terminate(kernel_id, viewer, reason="", by="test", now=2.0)


class ContentsOfNothing:
    def get_kernel_path(self, path: str) -> str:
        return ""


class SessionManagerOfAnything(BackendAISessionManager):
    kernel_manager = AnyTrait()
    contents_manager = AnyTrait()


def make_server(backend: SharedBackend) -> tuple[SessionManagerOfAnything, KernelsOfOneServer]:
    kernels = KernelsOfOneServer(backend)
    sessions = SessionManagerOfAnything(
        kernel_manager=kernels, contents_manager=ContentsOfNothing()
    )
    return sessions, kernels
