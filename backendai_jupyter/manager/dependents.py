"""Sessions that wait for others: may they start, or must they be cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from backendai_jupyter.domain.endings import succeeded
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Parent, Relative, Viewer
from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.store.dependencies import DependencyStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

_FIELD = "backendai.depends_on"
_BY = "dependencies"


class Dependents:
    """A session may start when all that it depends on have ended well; else it is cancelled."""

    def __init__(
        self,
        cluster_id: str,
        database: Database,
        *,
        cancelled: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._cluster_id = cluster_id
        self._sessions = SessionStore(database)
        self._dependencies = DependencyStore(database)
        self._cancelled = cancelled
        self._now = now

    async def find(self, wanted: Sequence[str], viewer: Viewer) -> tuple[Parent, ...]:
        """Return the sessions that are meant by ids or names.

        Raises ``InvalidInput`` for one that is not there, that is not to be told from another, or
        that has ended already, and not well.
        """
        found = {one.id: one for one in [await self._find(text, viewer) for text in wanted]}
        return tuple(found.values())

    async def of(
        self, session_id: str, viewer: Viewer
    ) -> tuple[Sequence[Relative], Sequence[Relative]]:
        """Return the sessions that this one depends on, and those that depend on it."""
        return await self._dependencies.of(session_id, viewer)

    async def step(self) -> None:
        """One pass over all that wait for what has ended, and for what is cancelled by it."""
        failed: set[str] = set()
        while True:
            over = await self._dependencies.over(self._cluster_id)
            if not over.keys() - failed:
                return
            for parent_id in over.keys() - failed:
                try:
                    await self._settle(parent_id, over[parent_id])
                except Unavailable:
                    raise  # of any session
                except Exception:  # what is wrong with one session must not keep others waiting
                    failed.add(parent_id)
                    log.exception("what depends on session %s goes on waiting", parent_id)

    async def _find(self, text: str, viewer: Viewer) -> Parent:
        found = await self._dependencies.named(text, viewer)
        if not found:
            raise InvalidInput(_FIELD, f"there is no session {text!r}")
        if len(found) > 1:
            ids = ", ".join(one.id for one in found)
            raise InvalidInput(_FIELD, f"several sessions are called {text!r}; write an id: {ids}")
        (one,) = found
        if one.status not in FINAL:
            return Parent(one.id, one.name)
        if not await self._ended_well(await self._sessions.get(one.id, SYSTEM)):
            raise InvalidInput(_FIELD, f"session {text!r} has not ended well: {_end_of(one)}")
        return Parent(one.id, one.name, is_met=True)

    async def _settle(self, parent_id: str, waiting: Sequence[str]) -> None:
        parent = await self._sessions.get(parent_id, SYSTEM)
        if await self._ended_well(parent):
            await self._dependencies.meet(parent_id, now=self._now())
            return
        reason = (
            f"It was cancelled because session {parent.name!r} ({parent.id}), which it depends "
            f"on, has not ended well: {_end_of(parent)}"
        )
        for session_id in waiting:
            await self._dependencies.cancel(session_id, reason=reason, by=_BY, now=self._now())
        self._cancelled()

    async def _ended_well(self, session: ComputeSession) -> bool:
        return succeeded(session, await self._sessions.history(session.id, SYSTEM))


def _end_of(session: ComputeSession | Relative) -> str:
    reason = f", {session.status_reason}" if session.status_reason else "."
    return f"it is {session.status}{reason}"
