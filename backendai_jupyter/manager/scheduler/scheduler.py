"""The scheduler's pass: read a snapshot, decide, claim."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy, Order
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.wire import AgentReport
from backendai_jupyter.errors import Conflict, NoCapacity, NotFound, Unavailable
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.scheduler.admission import decide
from backendai_jupyter.manager.scheduler.foresight import Foresight, Passed
from backendai_jupyter.manager.scheduler.snapshot import (
    Candidate,
    Decision,
    Placed,
    Snapshot,
    Waiting,
    Why,
)
from backendai_jupyter.points import reached
from backendai_jupyter.storage.hosts import VFolderHost, read_markers
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

_OUTLOOK_S = 2.0  # how old what is said of the queue may be
_NOT_OF_AGENTS = frozenset({Why.TIME, Why.PARENT})
_CLAIMING_S = 2.0  # after so long a pass looks anew at who waits, and with which priority


class Scheduler:
    """Turns ``PENDING`` sessions into ``SCHEDULED`` ones; the ledger has the last word.

    What a pass decides is a function of its snapshot (see ``admission``), which is what lets
    ``try_out`` and ``outlook`` say the same as a pass would, without claiming anything.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        sessions: SessionStore,
        queue: QueueStore,
        agents: AgentStore,
        board: Board,
        hosts: Mapping[str, VFolderHost],
        foresight: Foresight,
        policies: Callable[[], Mapping[str, GroupPolicy]],
        scheduled: Callable[[], None],
        told: Callable[[], None],
        again: Callable[[], None],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster_id = cluster_id
        self._sessions = sessions
        self._queue = queue
        self._agents = agents
        self._board = board
        self._hosts = hosts
        self._foresight = foresight
        self._policies = policies
        self._scheduled = scheduled
        self._told = told  # why something waits
        self._again = again  # a pass must follow at once
        self._now = now
        self._clock = clock
        # Of this process only: a new leader counts from the start, which costs some patience.
        self._attempts: dict[str, int] = {}
        self._last_agents: dict[str, str] = {}
        self._passed: Passed | None = None  # of the last pass, until somebody asks for it
        self._outlook: Mapping[str, Waiting] = {}
        self._looked_at = -math.inf
        self._looking = asyncio.Lock()

    def groups(self) -> list[str]:
        """Return the resource groups that there are: those configured, and those of agents."""
        of_agents = {report.resource_group for report in self._board.reports.values()}
        return sorted({DEFAULT_GROUP, *self._policies(), *of_agents})

    async def candidates(self) -> list[Candidate]:
        """Return the agents that are alive, with the room that the ledger says they have."""
        in_ledger = {agent.id: agent for agent in await self._agents.list()}
        swarms = managed_swarms(self._board.reports.values())
        return [
            Candidate(
                agent_id,
                capacity=in_ledger[agent_id].capacity,
                free=in_ledger[agent_id].free,
                images=frozenset(image.name for image in report.images),
                vfolder_hosts=report.vfolder_hosts,
                is_drained=in_ledger[agent_id].is_drained,
                group=report.resource_group,
                pullable=frozenset(image.name for image in report.pullable),
                modes=frozenset(report.cluster_modes),
                swarm=report.swarm.id if report.swarm and report.swarm.id in swarms else "",
            )
            for agent_id, report in sorted(self._board.reports.items())
            if agent_id in in_ledger
        ]

    async def snapshot(self, waiting: tuple[WaitingSession, ...]) -> Snapshot:
        """Return all that a pass over ``waiting`` depends on."""
        policies = self._policies()
        needs_usage = any(policy.order is Order.DRF for policy in policies.values())
        return Snapshot(
            now=self._now(),
            candidates=tuple(await self.candidates()),
            waiting=waiting,
            markers=await asyncio.to_thread(read_markers, self._hosts),
            policies=policies,
            usage=await self._queue.usage(self._cluster_id) if needs_usage else {},
            attempts=dict(self._attempts),
            failed_on={one.id: one.failed_on for one in waiting if one.failed_on},
            last_agents=dict(self._last_agents),
        )

    async def step(self) -> None:
        """One pass over all pending sessions of this cluster."""
        passed = await self._decide(await self._queue.waiting(self._cluster_id))
        self._take_note(passed)
        await self.carry_out(passed.decisions)

    async def carry_out(self, decisions: Sequence[Decision]) -> None:
        """Claim what was placed, in order, and tell those that wait why.

        What is placed far behind is left to the next pass if claiming takes long: meanwhile
        something more urgent may have come.
        """
        placed = [decision for decision in decisions if isinstance(decision, Placed)]
        began = self._clock()
        for decision in placed:
            if self._clock() - began > _CLAIMING_S:
                self._again()
                break
            await self._claim(decision)
        news = {
            decision.session.id: decision.reason
            for decision in decisions
            if isinstance(decision, Waiting) and decision.reason != decision.session.status_reason
        }
        if news:
            await self._queue.tell(news)
            self._told()

    async def try_out(self, session: WaitingSession) -> Decision:
        """Say what a pass now would do with a session that is not there yet; claims nothing."""
        waiting = await self._queue.waiting(self._cluster_id)
        decisions = await self._foresight.add(await self._decide((*waiting, session)))
        return next(decision for decision in decisions if decision.session is session)

    async def outlook(self) -> Mapping[str, Waiting]:
        """Return, by id, where the sessions that wait stand, as of the last moments."""
        async with self._looking:
            if self._clock() - self._looked_at > _OUTLOOK_S:
                waiting = await self._queue.waiting(self._cluster_id)
                self._keep(await self._decide(waiting))
            if self._passed is not None:
                decisions = await self._foresight.add(self._passed)
                self._outlook = {d.session.id: d for d in decisions if isinstance(d, Waiting)}
                self._passed = None
            return self._outlook

    async def _decide(self, waiting: tuple[WaitingSession, ...]) -> Passed:
        """Decide in a thread: with ten thousand sessions that takes seconds."""
        if not waiting:
            return Passed(Snapshot(self._now(), (), ()), ())
        snapshot = await self.snapshot(waiting)
        decisions = await asyncio.to_thread(decide, snapshot)
        refused = [refusal.reason for refusal in self._board.refusals.values()]
        return Passed(snapshot, [_with_reasons(decision, refused) for decision in decisions])

    def _take_note(self, passed: Passed) -> None:
        """Keep what the next pass depends on."""
        for decision in passed.decisions:
            if isinstance(decision, Placed):
                self._last_agents[decision.session.group] = list(decision.agents.values())[-1]
        self._attempts = {
            d.session.id: self._attempts.get(d.session.id, 0) + (d.why is Why.ROOM)
            for d in passed.decisions
            if isinstance(d, Waiting)
        }
        self._keep(passed)

    def _keep(self, passed: Passed) -> None:
        self._passed = passed
        self._looked_at = self._clock()

    async def _claim(self, placed: Placed) -> None:
        if gone := sorted(set(placed.agents.values()) - self._board.reports.keys()):
            log.info("session %s was not placed: %s is gone", placed.session.id, ", ".join(gone))
            return
        reason = "placed on " + ", ".join(sorted(set(placed.agents.values())))
        try:
            await self._sessions.claim(
                placed.session.id, placed.agents, reason=reason, by="scheduler", now=self._now()
            )
        except (Conflict, NoCapacity, NotFound) as error:
            # Another process took the room, or the owner took the request back.
            log.info("session %s was not placed: %s", placed.session.id, error)
        except Unavailable:
            raise  # of any session
        except Exception:
            log.exception("session %s could not be placed", placed.session.id)
        else:
            await reached("manager.session.claimed")
            self._scheduled()


def managed_swarms(reports: Iterable[AgentReport]) -> set[str]:
    """Return the swarms in which some agent that is alive can make networks."""
    return {report.swarm.id for report in reports if report.swarm and report.swarm.manages}


def _with_reasons(decision: Decision, refused: Sequence[str]) -> Decision:
    """Return the same with why agents that are there cannot be used, which is why it waits."""
    if not refused or isinstance(decision, Placed) or decision.why in _NOT_OF_AGENTS:
        return decision
    return replace(decision, reason=" ".join([decision.reason, *refused]))
