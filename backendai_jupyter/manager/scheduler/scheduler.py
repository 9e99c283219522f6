"""The scheduler's pass: read a snapshot, decide, claim."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import LostRace, NoCapacity
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.scheduler.placement import (
    Candidate,
    Placed,
    Waiting,
    order,
    place,
)
from backendai_jupyter.points import reached
from backendai_jupyter.storage.hosts import VFolderHost, read_markers
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)


class Scheduler:
    """Turns ``PENDING`` sessions into ``SCHEDULED`` ones; the ledger has the last word."""

    def __init__(
        self,
        cluster_id: str,
        *,
        sessions: SessionStore,
        agents: AgentStore,
        board: Board,
        hosts: Mapping[str, VFolderHost],
        scheduled: Callable[[], None],
        told: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._cluster_id = cluster_id
        self._sessions = sessions
        self._agents = agents
        self._board = board
        self._hosts = hosts
        self._scheduled = scheduled
        self._told = told  # why something waits
        self._now = now

    async def candidates(self) -> list[Candidate]:
        """Return the agents that are alive, with the room that the ledger says they have."""
        in_ledger = {agent.id: agent for agent in await self._agents.list()}
        return [
            Candidate(
                agent_id,
                capacity=in_ledger[agent_id].capacity,
                free=in_ledger[agent_id].free,
                images=frozenset(image.name for image in report.images),
                vfolder_hosts=report.vfolder_hosts,
                is_drained=in_ledger[agent_id].is_drained,
                pullable=frozenset(image.name for image in report.pullable),
            )
            for agent_id, report in sorted(self._board.reports.items())
            if agent_id in in_ledger
        ]

    async def step(self) -> None:
        """One pass over all pending sessions of this cluster."""
        pending = await self._sessions.live(self._cluster_id, status=Status.PENDING)
        if not pending:
            return
        markers = await asyncio.to_thread(read_markers, self._hosts)
        for decision in place(order(pending), await self.candidates(), markers):
            match decision:
                case Placed():
                    await self._claim(decision)
                case Waiting(session, reason):
                    refused = (refusal.reason for refusal in self._board.refusals.values())
                    reason = " ".join([reason, *refused])
                    for kernel in session.kernels:
                        await self._sessions.set_pending_reason(kernel.id, reason)
                    self._told()

    async def _claim(self, placed: Placed) -> None:
        reason = "placed on " + ", ".join(sorted(set(placed.agents.values())))
        try:
            await self._sessions.claim(
                placed.session.id, placed.agents, reason=reason, by="scheduler", now=self._now()
            )
        except (LostRace, NoCapacity) as error:
            # Another process took the room, or the owner took the request back.
            log.info("session %s was not placed: %s", placed.session.id, error)
        else:
            await reached("manager.session.claimed")
            self._scheduled()
