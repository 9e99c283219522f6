"""Batch sessions without a server: a backend of the command's own, which ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jupyter_client.kernelspec import KernelSpecManager
from traitlets.config import Config

from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.web.batch import asked_for
from backendai_jupyter.web.dry_run import NewSession
from backendai_jupyter.web.models import END_REASON, SessionDetail
from backendai_jupyter.web.queries import read_session


@asynccontextmanager
async def own_runs(config: Config) -> AsyncIterator[OwnRuns]:
    """Yield the ``Runs`` of a backend that is started now and stopped at the end."""
    backend = Backend(config)
    await asyncio.to_thread(backend.start)
    try:
        yield OwnRuns(backend)
    finally:
        await asyncio.to_thread(backend.stop)


class OwnRuns:
    """Asks a backend of this process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.outlives = backend.settings.in_cluster

    async def start(self, new: NewSession) -> SessionDetail:
        manager, call = self._backend.manager, self._backend.call
        request, plan = await asked_for(new, manager, manager.viewer, KernelSpecManager(), call)
        made = await call(manager.sessions.enqueue(request, manager.viewer, plan=plan))
        return await self.session(made.id)

    async def session(self, session_id: str) -> SessionDetail:
        manager = self._backend.manager
        return await self._backend.call(read_session(manager, session_id, manager.viewer))

    async def terminate(self, session_id: str) -> None:
        manager = self._backend.manager
        work = manager.sessions.terminate(session_id, manager.viewer, reason=END_REASON)
        await self._backend.call(work)
