"""Who runs a batch session that a command asks for: the server that runs here, or a backend of the
command's own, which ends with it.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

from backendai_jupyter.cli.server import Server, find_server, parsed
from backendai_jupyter.config import BackendAI, load_files
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.web.dry_run import NewSession
from backendai_jupyter.web.models import SessionDetail


class Runs(Protocol):
    """What ``jupyter backendai run`` needs; the answers are those of the REST API."""

    outlives: bool  # whether what it runs goes on without this command

    async def start(self, new: NewSession) -> SessionDetail: ...

    async def session(self, session_id: str) -> SessionDetail: ...

    async def terminate(self, session_id: str) -> None: ...


@asynccontextmanager
async def connect_runs(*, outlives: bool) -> AsyncIterator[Runs]:
    """Yield the running server, else a backend of our own.

    What ``outlives`` this command needs somebody else: raises ``InvalidInput`` without.
    """
    server = await find_server()
    if server is not None:
        yield ServerRuns(server)
        return
    config = load_files()
    if outlives and not BackendAI(config=config).in_cluster:
        problem = "no Jupyter Server runs here that would keep it; without --detach it can run"
        raise InvalidInput("--detach", problem)
    # Loading a whole backend takes longer than all that asking a server needs.
    module = importlib.import_module("backendai_jupyter.cli.own_runs")
    async with module.own_runs(config) as runs:
        yield runs


class ServerRuns:
    """Asks the server, and finds it again when it has been started again."""

    outlives = True

    def __init__(self, server: Server) -> None:
        self._server = server

    async def start(self, new: NewSession) -> SessionDetail:
        return parsed(SessionDetail, await self._server.ask("POST", "sessions", body=new))

    async def session(self, session_id: str) -> SessionDetail:
        try:
            return parsed(SessionDetail, await self._server.ask("GET", _path(session_id)))
        except Unavailable:
            self._server = await find_server() or self._server
            raise

    async def terminate(self, session_id: str) -> None:
        await self._server.ask("DELETE", _path(session_id))


def _path(session_id: str) -> str:
    return f"sessions/{quote(session_id, safe='')}"
