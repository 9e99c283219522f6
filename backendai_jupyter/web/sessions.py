"""``/backendai/v1/sessions``: what runs, why, and an end to it."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.provisioning.kernelspecs import request_of
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.dry_run import DryRun, NewSession, SessionOptions, dry_run_of
from backendai_jupyter.web.log_models import Log, Member
from backendai_jupyter.web.models import (
    END_REASON,
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

    @web.authenticated
    @authorized
    @operation(returns=DryRun, query=SessionOptions, body=NewSession)
    async def post(self, query: SessionOptions, body: NewSession) -> DryRun:
        """Say what would become of a session; only with `dry_run=true` yet."""
        if not query.dry_run:
            raise InvalidInput("dry_run", "must be true: kernels are started by POST /api/kernels")
        request = request_of(self.kernel_spec_manager, body.kernelspec, body.backendai)
        return dry_run_of(await self.ask(self.manager.sessions.try_out(request, self.viewer)))


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
    @operation(returns=Log, query=Member)
    async def get(self, session_id: str, query: Member) -> Log:
        """Return the end of what a kernel of the session wrote."""
        logs = self.manager.sessions.logs(session_id, self.viewer, host=query.host)
        return Log(log=await self.ask(logs))


routes = [
    (r"/backendai/v1/sessions", SessionsHandler),
    (r"/backendai/v1/sessions/(?P<session_id>[^/]+)", SessionHandler),
    (r"/backendai/v1/sessions/(?P<session_id>[^/]+)/logs", LogsHandler),
]
