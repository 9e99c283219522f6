"""Jupyter's own sessions (notebook and kernel): in our database, where every server sees them.

A session whose kernel is a local one belongs to the server that runs it and ends with it: the
server keeps it in memory, and nobody else sees it.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord, SessionManager
from jupyter_server.utils import ensure_async
from tornado import web

from backendai_jupyter.domain.records import JupyterSession, Viewer
from backendai_jupyter.errors import BackendError, InvalidInput, Unavailable
from backendai_jupyter.provisioning.adoption import catch_up
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.provisioning.kernelspecs import is_ours
from backendai_jupyter.store.jupyter_sessions import JupyterSessionStore
from backendai_jupyter.supervisor import uninterrupted

T = TypeVar("T")

Model = dict[str, Any]


class BackendAISessionManager(SessionManager):
    """jupyter_server's, with the same contract and no file of its own.

    Of one path there is one session: of two servers that are asked for one at the same moment,
    both answer with that of the first, and the other ends the kernel that it has started.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call] # its base
        self._local: dict[str, JupyterSession] = {}  # by id

    async def session_exists(self, path: str) -> bool:
        for session in await self._find(path=path):
            if await self.row_to_model(session, tolerate_culled=True) is not None:
                return True
        return False

    async def create_session(
        self,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> Model:
        """Return the model of a new session, or of the one that its path has got meanwhile."""
        about: dict[str, Any] = {"path": path, "name": name, "type": type}
        _check_texts(about)
        session_id = self.new_session_id()
        record = KernelSessionRecord(session_id=session_id)
        self._pending_sessions.update(record)
        try:
            if kernel_id is not None and await self._has_kernel(kernel_id):
                return await self.save_session(session_id, **about, kernel_id=kernel_id)
            kernel_id = await self.start_kernel_for_session(
                session_id=session_id,
                kernel_name=kernel_name,  # type: ignore[arg-type] # a NewType of theirs
                kernel_id=kernel_id,
                **about,
            )
            record.kernel_id = kernel_id
            return await self._save_with_its_kernel(session_id, about, kernel_id)
        finally:
            self._pending_sessions.remove(record)

    async def save_session(
        self,
        session_id: str,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str | None = None,
    ) -> Model:
        """Write a session and return its model, or that of the one whose path it is."""
        session = JupyterSession(
            session_id, self._viewer.user_id, path, name, type, kernel_id or ""
        )
        while True:
            kept = await self._add(session)
            model = await self.row_to_model(kept, tolerate_culled=True)
            if model is not None:
                return model
            if kept.id == session_id:
                raise web.HTTPError(404, f"Session not found: its kernel {kernel_id} has ended")

    async def get_session(self, **kwargs: str | None) -> Model:
        """Return the model of the session of which all this is true; 404 without one."""
        _, model = await self._get(**kwargs)
        return model

    async def update_session(self, session_id: str, **kwargs: Any) -> None:
        """Change a session; unlike a new one it may get the path of another."""
        session, _ = await self._get(session_id=session_id)
        if not kwargs:
            return
        _check_texts(kwargs)
        changed = await self._change(session, _fields(kwargs))
        self.kernel_manager.update_env(
            kernel_id=changed.kernel_id,
            env=self.get_kernel_env(changed.path, changed.name),  # type: ignore[arg-type]
        )

    async def list_sessions(self) -> list[Model]:
        """Return the models of all sessions whose kernels this server can reach."""
        models = []
        for session in await self._find():
            if await self._has_kernel(session.kernel_id):
                models.append(await self._model(session))
            elif await self.kernel_culled(session.kernel_id):
                await self._forget(session)
        return models

    async def delete_session(self, session_id: str) -> None:
        """End a session with its kernel; where that cannot be done now, it stays."""
        record = KernelSessionRecord(session_id=session_id)
        self._pending_sessions.update(record)
        try:
            session, _ = await self._get(session_id=session_id)
            await ensure_async(self.kernel_manager.shutdown_kernel(session.kernel_id))
            await self._forget(session)
        finally:
            self._pending_sessions.remove(record)

    async def kernel_culled(self, kernel_id: str) -> bool:
        """Whether a kernel is gone for good, for every server."""
        if await self._has_kernel(kernel_id):
            return False
        return not await self._call(self._store.kernel_lives(kernel_id, self._viewer))

    async def row_to_model(
        self, row: JupyterSession, tolerate_culled: bool = False
    ) -> Model | None:
        """Return the model of a session; one whose kernel is gone for good is removed first.

        That is a ``KeyError``, or None where it is tolerated; ``Unavailable`` is raised for a
        kernel that lives and that this server cannot reach.
        """
        if await self._has_kernel(row.kernel_id):
            return await self._model(row)
        if not await self.kernel_culled(row.kernel_id):
            raise Unavailable(
                f"The kernel {row.kernel_id} of the session cannot be reached from this server "
                "now; try again."
            )
        await self._forget(row)
        told = (
            f"Kernel {row.kernel_id!r} appears to have been culled or died unexpectedly, "
            f"invalidating session {row.id!r}. The session has been removed."
        )
        if not tolerate_culled:
            raise KeyError(told)
        self.log.warning("%s  Continuing...", told)
        return None

    async def _has_kernel(self, kernel_id: str) -> bool:
        """Whether this server manages a kernel; that of another it does from now on."""
        if kernel_id not in self.kernel_manager:
            await catch_up(self.kernel_manager, kernel_id)
        return kernel_id in self.kernel_manager

    async def _model(self, session: JupyterSession) -> Model:
        model: Model = {
            "id": session.id,
            "path": session.path,
            "name": session.name,
            "type": session.type,
            "kernel": await ensure_async(self.kernel_manager.kernel_model(session.kernel_id)),
        }
        if session.type == "notebook":
            model["notebook"] = {"path": session.path, "name": session.name}  # the deprecated API
        return model

    async def _save_with_its_kernel(
        self, session_id: str, about: Mapping[str, Any], kernel_id: str
    ) -> Model:
        """Write a session; its kernel is ended where the session does not come to be."""
        try:
            model = await self.save_session(session_id, **about, kernel_id=kernel_id)
        except BaseException:  # also where whoever asked is gone
            await uninterrupted(self._end(kernel_id))
            raise
        if model["id"] != session_id:
            await uninterrupted(self._end(kernel_id))
        return model

    async def _end(self, kernel_id: str) -> None:
        try:
            await ensure_async(self.kernel_manager.shutdown_kernel(kernel_id))
        except (BackendError, web.HTTPError) as error:
            self.log.error(
                "The kernel %s, which no session has, is not ended: %s", kernel_id, error
            )

    async def _get(self, **wanted: str | None) -> tuple[JupyterSession, Model]:
        if not wanted:
            raise TypeError("must specify a column to query")
        told = ", ".join(f"{column}={value!r}" for column, value in wanted.items())
        for session in await self._find(**_fields(wanted)):
            model = await self.row_to_model(session, tolerate_culled=True)
            if model is not None:
                return session, model
        raise web.HTTPError(404, f"Session not found: {told}")

    async def _find(self, **wanted: str | None) -> list[JupyterSession]:
        local = [
            session
            for session in self._local.values()
            if all(getattr(session, field) == value for field, value in wanted.items())
        ]
        return [*local, *await self._call(self._store.find(self._viewer, **wanted))]

    async def _add(self, session: JupyterSession) -> JupyterSession:
        """Keep a session and return it, or the one that its path has already."""
        if not self._is_local(session.kernel_id):
            return await self._call(self._store.add(session, now=time.time()))
        same = (other for other in self._local.values() if other.path == session.path)
        kept = next(same, session)
        self._local[kept.id] = kept
        return kept

    async def _change(
        self, session: JupyterSession, changes: Mapping[str, str | None]
    ) -> JupyterSession:
        """Change a session, which moves where its new kernel is local and the old was not."""
        changed = replace(session, **changes)  # type: ignore[arg-type] # the fields are known
        was_local, is_local = session.id in self._local, self._is_local(changed.kernel_id)
        if not was_local and not is_local:
            return await self._call(self._store.change(session.id, self._viewer, changes))
        if is_local:
            if not was_local:
                await self._call(self._store.remove(session))
            self._local[session.id] = changed
        else:
            await self._call(self._store.add(changed, now=time.time(), may_share=True))
            del self._local[session.id]
        return changed

    async def _forget(self, session: JupyterSession) -> None:
        if self._local.pop(session.id, None) is None:
            await self._call(self._store.remove(session))

    def _is_local(self, kernel_id: str) -> bool:
        """Whether a kernel is known here and is not ours."""
        kernels: Any = self.kernel_manager
        return kernel_id in kernels and not is_ours(kernels.get_kernel(kernel_id).kernel_spec)

    @property
    def _store(self) -> JupyterSessionStore:
        return BACKENDS.backend.manager.jupyter_sessions

    @property
    def _viewer(self) -> Viewer:
        return BACKENDS.backend.manager.viewer

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return await BACKENDS.backend.call(work)


def _fields(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of a record's fields for those of jupyter_server's columns."""
    for column in columns:
        if column not in SessionManager._columns:
            raise TypeError(f"No such column: {column!r}")
    return {"id" if name == "session_id" else name: value for name, value in columns.items()}


def _check_texts(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if not isinstance(value, str | None):
            raise InvalidInput(name, "must be a string")
