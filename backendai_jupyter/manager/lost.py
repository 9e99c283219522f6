"""End the kernels of agents that are gone: cut off, switched off, or without a daemon."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import HOLDS_SLOTS, Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import LostRace
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.members import Members
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

_BY = "lost-agent check"
_Member = tuple[ComputeSession, Kernel]


class LostAgents:
    """An agent is lost when both stores have answered without it for ``after_s`` seconds.

    It is missing from etcd when its lease has run out, and from Redis when its report has:
    one that any of the two still knows is alive.  While a store is away nobody is judged.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        cluster: ClusterStore,
        sessions: SessionStore,
        members: Members,
        board: Board,
        after_s: Callable[[], float],
        moved: Callable[[], None],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._sessions = sessions
        self._members = members
        self._board = board
        self._after_s = after_s
        self._moved = moved
        self._now = now
        self._clock = clock
        self._missing: dict[str, float] = {}  # agent -> since when

    def forget(self) -> None:
        """Count from the start again: somebody else has led meanwhile."""
        self._missing.clear()

    async def step(self) -> None:
        """One pass over the agents that have kernels."""
        registered = await self._cluster.list(keys.AGENTS)
        alive = {entry.key.removeprefix(keys.AGENTS) for entry in registered.entries}
        alive |= self._board.reports.keys() | self._board.refusals.keys()
        kernels = _by_agent(await self._sessions.live(self._cluster_id, not_on=alive), alive)
        since = {agent: self._missing.get(agent, self._clock()) for agent in kernels}
        self._missing, after_s = since, self._after_s()
        for agent_id, missing_since in since.items():
            if self._clock() - missing_since >= after_s:
                await self._end(agent_id, kernels[agent_id], after_s)

    async def _end(self, agent_id: str, kernels: list[_Member], after_s: float) -> None:
        message = (
            f"The agent {agent_id} was lost: nothing was heard of it for "
            f"{after_s:g} seconds. What the kernel had in memory is gone."
        )
        log.error("agent %s is lost, and with it %d kernels", agent_id, len(kernels))
        ending = Exit(reason=ExitReason.AGENT_LOST, message=message)
        for session, kernel in kernels:
            try:
                if kernel.status is Status.RESCHEDULING or await self._members.taken_back(
                    session, kernel, ending, by=_BY
                ):
                    await self._move(kernel, Status.PENDING, ending)
                    continue
                if kernel.status is not Status.TERMINATING:
                    await self._move(kernel, Status.TERMINATING, ending)
                await self._move(kernel, Status.TERMINATED, ending)
            except LostRace as error:
                log.info("%s", error)  # its owner ended it, or another leader was faster
        self._moved()

    async def _move(self, kernel: Kernel, to: Status, ending: Exit) -> None:
        reason = ending.message if kernel.status is not Status.TERMINATING else kernel.status_reason
        await self._sessions.move(
            kernel.id,
            to,
            reason=reason,
            by=_BY,
            now=self._now(),
            exit=None if to is Status.PENDING else ending,
            generation=kernel.generation,
        )


def _by_agent(
    sessions: tuple[ComputeSession, ...], alive: Collection[str]
) -> dict[str, list[_Member]]:
    """Return by agent the kernels that are on one which is not alive."""
    found: defaultdict[str, list[_Member]] = defaultdict(list)
    for session in sessions:
        for kernel in session.kernels:
            agent_id = kernel.agent_id or ""
            if agent_id and agent_id not in alive and kernel.status in HOLDS_SLOTS:
                found[agent_id].append((session, kernel))
    return found
