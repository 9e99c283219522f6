"""Sessions that no server shows live as long as the process that asked for them, a batch run.

A batch *session* is another thing: it belongs to nobody's process (``domain/batch.py``).

On one machine its relay sees it die.  In a cluster it claims its sessions under a lease, and
whoever leads ends those that nobody has claimed for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore, Lease
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import Conflict, Unavailable
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.supervisor import Loop, race

log = logging.getLogger(__name__)

TTL_S = 10.0
REASON = "The batch run that had started it ended without ending it, or was cut off."


class Claims:
    """What the batch runs of this process have started; run it under a supervisor."""

    def __init__(self, cluster: ClusterStore) -> None:
        self._cluster = cluster
        self._sessions: set[str] = set()
        self._added = asyncio.Event()

    async def add(self, session_id: str) -> None:
        """Claim a session, for as long as this process lives; returns at once."""
        self._sessions.add(session_id)
        self._added.set()

    async def run(self) -> None:
        """Claim, and again whenever the lease was lost, until cancelled."""
        loop = Loop(
            "claims of batch runs",
            self._hold,
            period_s=0,
            max_backoff_s=TTL_S / 3,
            expected=(Conflict, Unavailable),
        )
        await self._added.wait()  # most managers never have one
        await loop.run()

    async def _hold(self) -> None:
        async with self._cluster.lease(TTL_S) as lease:
            claimed: set[str] = set()
            while lease.alive:
                self._added.clear()
                claimed |= await self._claim(self._sessions - claimed, lease)
                await race(lease.lost(), self._until_added())

    async def _claim(self, sessions: set[str], lease: Lease) -> set[str]:
        for session_id in sessions:
            await self._cluster.put(keys.claim(session_id), "", lease=lease)
        return sessions

    async def _until_added(self) -> None:
        await self._added.wait()


class AbandonedRuns:
    """A batch run's session is abandoned when nobody has claimed it for ``after_s`` seconds.

    While a store is away nobody is judged, and counting begins anew.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        cluster: ClusterStore,
        sessions: SessionStore,
        after_s: Callable[[], float],
        ended: Callable[[], None],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._sessions = sessions
        self._after_s = after_s
        self._ended = ended
        self._now = now
        self._clock = clock
        self._unclaimed: dict[str, float] = {}  # session -> since when

    def forget(self) -> None:
        """Count from the start again: somebody else has led meanwhile."""
        self._unclaimed.clear()

    async def step(self) -> None:
        """One pass over the sessions that no server shows."""
        try:
            found = {session.id: session for session in await self._found()}
        except Unavailable:
            self.forget()
            raise
        self._unclaimed = {one: self._unclaimed.get(one, self._clock()) for one in found}
        for session_id, since in self._unclaimed.items():
            if self._clock() - since >= self._after_s():
                await self._end(found[session_id])

    async def _found(self) -> list[ComputeSession]:
        live = [
            session
            for session in await self._sessions.live(self._cluster_id, unshown=True)
            if session.batch is None and session.status is not Status.TERMINATING
        ]
        if not live:
            return []
        claims = await self._cluster.list(keys.CLAIMS)
        claimed = {entry.key.removeprefix(keys.CLAIMS) for entry in claims.entries}
        return [session for session in live if session.id not in claimed]

    async def _end(self, session: ComputeSession) -> None:
        log.warning("session %s: %s", session.id, REASON)
        await self._sessions.terminate(
            session.id, SYSTEM, reason=REASON, by="batch check", now=self._now()
        )
        self._ended()
