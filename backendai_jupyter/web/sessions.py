"""``/backendai/v1/sessions``: what runs, why, something new, and an end to it."""

from __future__ import annotations

import uuid
from dataclasses import replace

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.domain.batch import SessionType
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.sessions import Plan
from backendai_jupyter.provisioning.kernelspecs import DEFAULT_KERNEL, request_of
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.batch import asked_for
from backendai_jupyter.web.dry_run import (
    NewSession,
    NewSessionAnswer,
    SessionOptions,
    dry_run_of,
)
from backendai_jupyter.web.log_models import Log, Member
from backendai_jupyter.web.models import (
    END_REASON,
    SessionDetail,
    SessionList,
    Wanted,
)
from backendai_jupyter.web.operation import operation
from backendai_jupyter.web.queries import read_session, read_sessions
from backendai_jupyter.web.session_filters import SessionFilter


class SessionsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=SessionList, query=SessionFilter)
    async def get(self, query: SessionFilter) -> SessionList:
        """List compute sessions, newest first."""
        return await self.ask(read_sessions(self.manager, self.viewer, query))

    @web.authenticated
    @authorized
    @operation(returns=NewSessionAnswer, query=SessionOptions, body=NewSession)
    async def post(self, query: SessionOptions, body: NewSession) -> NewSessionAnswer:
        """Ask for a session, without waiting for it; with `dry_run=true` only say what would be."""
        request, plan = await self._asked_for(body)
        sessions, viewer = self.manager.sessions, self.viewer
        if query.dry_run:
            decision = await self.ask(sessions.try_out(request, viewer, plan=plan))
            return NewSessionAnswer(dry_run_of(decision))
        if body.type is not SessionType.BATCH:
            request = replace(request, kernel_id=str(uuid.uuid4()), for_server=True)
        session = await self.ask(sessions.enqueue(request, viewer, plan=plan))
        return NewSessionAnswer(await self.ask(read_session(self.manager, session.id, viewer)))

    async def _asked_for(self, body: NewSession) -> tuple[Request, Plan]:
        specs = self.kernel_spec_manager
        if body.type is SessionType.BATCH:
            return await asked_for(body, self.manager, self.viewer, specs, self.ask)
        if body.batch is not None:
            raise InvalidInput("batch", "only a session of type batch has one")
        name = body.kernelspec or DEFAULT_KERNEL
        request = replace(request_of(specs, name, body.backendai), name=body.name)
        return request, lambda new: new


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
