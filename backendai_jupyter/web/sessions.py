"""``/backendai/v1/sessions``: what runs, why, and an end to it."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.models import (
    END_REASON,
    Log,
    SessionDetail,
    SessionFilter,
    SessionList,
    Wanted,
)
from backendai_jupyter.web.operation import operation
from backendai_jupyter.web.queries import read_session, read_sessions


class SessionsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=SessionList, query=SessionFilter)
    async def get(self, query: SessionFilter) -> SessionList:
        """List compute sessions, newest first."""
        return await self.ask(read_sessions(self.manager, self.viewer, query))


class SessionHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=SessionDetail, query=Wanted)
    async def get(self, session_id: str, query: Wanted) -> SessionDetail:
        """Return one compute session with its history."""
        return await self.ask(read_session(self.manager, session_id, self.viewer, query))

    @web.authenticated
    @authorized
    @operation(returns=None)
    async def delete(self, session_id: str) -> None:
        """Ask for the end of a compute session; ending an ended one succeeds."""
        await self.ask(self.manager.sessions.terminate(session_id, self.viewer, reason=END_REASON))


class LogsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=Log)
    async def get(self, session_id: str) -> Log:
        """Return the end of what the session's main kernel wrote."""
        return Log(log=await self.ask(self.manager.sessions.logs(session_id, self.viewer)))


routes = [
    (r"/backendai/v1/sessions", SessionsHandler),
    (r"/backendai/v1/sessions/(?P<session_id>[^/]+)", SessionHandler),
    (r"/backendai/v1/sessions/(?P<session_id>[^/]+)/logs", LogsHandler),
]
