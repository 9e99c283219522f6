"""What commands may ask, whoever answers: the Jupyter Server that runs here, or nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from backendai_jupyter.cli.local import LocalApi
from backendai_jupyter.cli.server import ServerApi, find_server
from backendai_jupyter.config import load_files
from backendai_jupyter.errors import InvalidInput, NotFound, Unavailable
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.models import (
    Agent,
    AgentList,
    SessionDetail,
    SessionList,
)
from backendai_jupyter.web.session_filters import SessionFilter

_UUID_LENGTH = 36


class Api(Protocol):
    """The answers are those of the REST API; those about one thing have its statistics."""

    async def sessions(self, wanted: SessionFilter) -> SessionList: ...

    async def session(self, session_id: str) -> SessionDetail: ...

    async def log(self, session_id: str, host: str = "main1") -> str: ...

    async def terminate(self, session_id: str) -> None:
        """Ask for a session's end; returns before it has come."""
        ...

    async def agents(self) -> AgentList:
        """List agents with their statistics."""
        ...

    async def agent(self, agent_id: str) -> Agent: ...

    async def drain(self, agent_id: str, *, is_drained: bool) -> Agent: ...

    async def images(self) -> ImageList: ...


@asynccontextmanager
async def connect() -> AsyncIterator[Api]:
    """Yield the running server, or this machine's database and a backend of our own."""
    local = LocalApi(load_files())
    try:
        server = await find_server()
        yield local if server is None else ServerApi(server, beside=local)
    finally:
        await local.close()


@asynccontextmanager
async def connect_to_server() -> AsyncIterator[ServerApi]:
    """Yield the running server; raises ``Unavailable`` where there is none."""
    local = LocalApi(load_files())
    try:
        server = await find_server()
        if server is None:
            raise Unavailable("No Jupyter Server of ours runs here, and nobody else can do this.")
        yield ServerApi(server, beside=local)
    finally:
        await local.close()


async def find_session(api: Api, beginning: str) -> str:
    """Return the id of the one session whose id begins like this."""
    if len(beginning) == _UUID_LENGTH:
        return beginning
    sessions = (await api.sessions(SessionFilter())).root
    found = [session.id for session in sessions if session.id.startswith(beginning)]
    if not found:
        raise NotFound(f"There is no session {beginning}.")
    if len(found) > 1:
        raise InvalidInput("ID", f"{beginning!r} is the beginning of {' and '.join(found[:5])}.")
    return found[0]
