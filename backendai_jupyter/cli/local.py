"""Answer without a server: sessions from the database, agents from a backend of our own."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from traitlets.config import Config

from backendai_jupyter.cli.database import LocalDatabase
from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.manager.statistics import Readings
from backendai_jupyter.provisioning.instance import is_at_work
from backendai_jupyter.store.dependencies import DependencyStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.models import (
    END_REASON,
    Agent,
    AgentList,
    SessionDetail,
    SessionList,
    detail_of,
    session_of,
)
from backendai_jupyter.web.relatives import relatives_of
from backendai_jupyter.web.session_filters import SessionFilter
from backendai_jupyter.web.statistics import session_with

_NOBODY = Readings({}, "No server runs that could say.")


class LocalApi:
    """An ``Api`` that sees the sessions of every process on this machine.

    They share the database, and each passes over its own rows every few seconds: that is
    when the end of a session that is written here takes effect.  Kernels whose server does not
    run are ended by a backend of our own.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._settings = BackendAI(config=config)
        self._data_dir = Path(self._settings.data_dir)
        self._database = LocalDatabase(self._settings)

    async def close(self) -> None:
        await self._database.close()

    async def sessions(self, wanted: SessionFilter) -> SessionList:
        if self._database.is_new():
            return SessionList([])
        store, viewer = await self._open()
        found = await store.list(viewer, wanted.selection())
        sessions = [session_of(session) for session in found]
        if wanted.statistics:
            sessions = [session_with(_NOBODY, session) for session in sessions]
        return SessionList(sessions)

    async def session(self, session_id: str) -> SessionDetail:
        database, viewer = await self._database.open()
        store = SessionStore(database)
        session = await store.get(session_id, viewer)
        detail = detail_of(session, await store.history(session_id, viewer))
        parents, children = await DependencyStore(database).of(session_id, viewer)
        relatives = {"depends_on": relatives_of(parents), "dependents": relatives_of(children)}
        return session_with(_NOBODY, detail.model_copy(update=relatives))

    async def log(self, session_id: str, host: str = "main1") -> str:
        store, viewer = await self._open()
        session = await store.get(session_id, viewer)
        kernel = session.kernel(host)
        if kernel.status in FINAL:
            return kernel.exit.log_tail if kernel.exit else ""
        text: str = await _embedded().read_log(self._data_dir, session.cluster_id, kernel.id)
        return text

    async def terminate(self, session_id: str) -> None:
        store, viewer = await self._open()
        await store.terminate(
            session_id, viewer, reason=END_REASON, by=viewer.user_id, now=time.time()
        )
        session = await store.get(session_id, viewer)
        if session.status not in FINAL and not is_at_work(self._data_dir, session.cluster_id):
            await _embedded().end(self._config, session_id)

    async def agents(self) -> AgentList:
        answer: AgentList = await _embedded().agents(self._config)
        return answer

    async def agent(self, agent_id: str) -> Agent:
        answer: Agent = await _embedded().agent(self._config, agent_id)
        return answer

    async def drain(self, agent_id: str, *, is_drained: bool) -> Agent:
        answer: Agent = await _embedded().drain(self._config, agent_id, is_drained=is_drained)
        return answer

    async def images(self) -> ImageList:
        answer: ImageList = await _embedded().images(self._config)
        return answer

    async def _open(self) -> tuple[SessionStore, Viewer]:
        database, viewer = await self._database.open()
        return SessionStore(database), viewer


def _embedded() -> Any:
    # Loading a whole backend takes longer than all that a list of sessions needs.
    return importlib.import_module("backendai_jupyter.cli.embedded")
