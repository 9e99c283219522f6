"""Read what agents report and move the rows accordingly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.domain.batch_ends import status_after
from backendai_jupyter.domain.progress import doing
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Kernel
from backendai_jupyter.domain.states import FINAL, Status, sources_of
from backendai_jupyter.domain.wire import AgentReport, Exit, KernelReport, Phase
from backendai_jupyter.errors import LostRace
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.manager.members import Members
from backendai_jupyter.manager.networks import needs_network, network_of
from backendai_jupyter.manager.reports import ReportReader
from backendai_jupyter.points import reached
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

_STATUS_OF_PHASE: Mapping[Phase, Status] = {
    Phase.PREPARING: Status.PREPARING,
    Phase.PULLING: Status.PULLING,
    Phase.CREATING: Status.CREATING,
    Phase.RUNNING: Status.RUNNING,
    Phase.EXITED: Status.RESTARTING,
    Phase.FAILED: Status.ERROR,
}


@dataclass(frozen=True, slots=True)
class Move:
    to: Status
    reason: str = ""
    exit: Exit | None = None


_AFTER_GOING = {Status.TERMINATING: Status.TERMINATED, Status.RESCHEDULING: Status.PENDING}


def decide(
    kernel: Kernel,
    agent: AgentReport | None,
    released: int | None,
    session: ComputeSession | None = None,
) -> Move | None:
    """Return the move that a report calls for, if any.  Pure.  ``session`` matters for a batch.

    ``released`` is the cluster store's revision at which the kernel's assignment was
    certainly gone, or None: a kernel on its way out is gone when its agent has taken note
    of that revision and no longer lists it.
    """
    if agent is None:
        return None
    seen = agent.by_kernel.get(kernel.id)
    if kernel.status in _AFTER_GOING:
        gone = seen is None and released is not None and agent.revision >= released
        return Move(_AFTER_GOING[kernel.status], kernel.status_reason) if gone else None
    if seen is None or seen.generation != kernel.generation or seen.phase is Phase.STOPPING:
        return None
    ended = session and status_after(session, kernel, seen.phase, seen.exit)
    to = ended or _STATUS_OF_PHASE[seen.phase]
    if kernel.status not in sources_of(to):
        return None
    if seen.exit is not None:
        return Move(to, seen.exit.message, seen.exit)
    return Move(to, "" if to is Status.RUNNING else doing(to, seen.step))


class Observer:
    """Keeps rows and the board in step with reports; the same in every manager.

    Each reads the rows before the reports, and moves a row only from what it has read: so no
    report is older than the one that another manager moved the row by, and none is undone.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        live: LiveStore,
        sessions: SessionStore,
        members: Members,
        agents: AgentStore,
        board: Board,
        sealer: Sealer,
        released: Callable[[ComputeSession, Kernel], int | None],
        moved: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._cluster_id = cluster_id
        self._live = live
        self._sessions = sessions
        self._members = members
        self._agents = agents
        self._board = board
        self._reader = ReportReader(sealer)
        self._released = released
        self._moved = moved
        self._now = now
        self._passing = asyncio.Lock()  # so that the board never goes back

    async def step(self) -> None:
        """One pass over all reports and all live kernels of this cluster."""
        async with self._passing:
            await self._pass()

    async def _pass(self) -> None:
        live = await self._sessions.live(self._cluster_id)
        await self._read_reports()
        found = {kernel.id: (session, kernel) for session in live for kernel in session.kernels}
        for kernel_id in tuple(found):
            if await self._observe(*found[kernel_id]):
                found.update(await self._read(kernel_id))
        for kernel_id in self._board.unfinished() - set(found):  # ended since the last pass
            found.update(await self._read(kernel_id))
        await self._board.post([self._notice(*one) for one in found.values()])

    async def _read_reports(self) -> None:
        read = self._reader.read(await self._live.list(keys.REPORTS))
        known, self._board.reports = self._board.reports, dict(read.accepted)
        refused, self._board.refusals = self._board.refusals, dict(read.refused)
        for agent_id, refusal in self._board.refusals.items():
            if refused.get(agent_id) != refusal:
                log.error("%s", refusal.reason)
                await self._agents.introduce(agent_id, refusal.version, now=self._now())
        for agent_id, report in self._board.reports.items():
            if _changed(known.get(agent_id), report):
                await self._agents.record(report, now=self._now())
                self._moved()

    async def _observe(self, session: ComputeSession, kernel: Kernel) -> bool:
        agent = self._board.reports.get(kernel.agent_id or "")
        released, by = self._released(session, kernel), f"agent {kernel.agent_id}"
        move = decide(kernel, agent, released, session)
        if move is None:
            return False
        is_gone = kernel.status in _AFTER_GOING
        if is_gone and self._members.waits_for_network(session, kernel):
            return False
        if not is_gone and await self._members.taken_back(session, kernel, move.exit, by=by):
            self._moved()
            return True
        await reached(f"manager.move.{move.to.lower()}")
        try:
            await self._sessions.move(
                kernel.id,
                move.to,
                reason=move.reason,
                by=by,
                now=self._now(),
                exit=move.exit,
                generation=kernel.generation,
                before=kernel.status,
            )
        except LostRace as error:
            log.debug("%s", error)  # somebody else moved it; the next pass sees what came out
        await reached(f"manager.moved.{move.to.lower()}")
        is_of_several = len(session.kernels) > 1 and move.to is Status.RESTARTING
        changes = move.to in FINAL or move.to is Status.PENDING or is_of_several
        if changes or session.batch is not None:  # whose assignment changes when it runs
            self._moved()  # else it frees nothing, and neither assignments nor others change
        return True

    async def _read(self, kernel_id: str) -> dict[str, tuple[ComputeSession, Kernel]]:
        """Return what there is of the kernel and of the others of its session now."""
        session = await self._sessions.of_kernel(kernel_id, SYSTEM)
        return {kernel.id: (session, kernel) for kernel in session.kernels}

    def _notice(self, session: ComputeSession, kernel: Kernel) -> Notice:
        seen = self._report_of(kernel)
        notice = Notice.of(session, kernel, seen, self._reader.connection(seen))
        if kernel.status is Status.SCHEDULED and needs_network(session):
            return replace(notice, waits_for=network_of(session, self._board)[1])
        return notice

    def _report_of(self, kernel: Kernel) -> KernelReport | None:
        agent = self._board.reports.get(kernel.agent_id or "")
        if agent is None:
            return None
        return agent.by_kernel.get(kernel.id)


def _changed(before: AgentReport | None, after: AgentReport) -> bool:
    """Whether the part of a report that is kept in the database differs."""
    if before is None or before is after:
        return before is None
    ignored = {"kernels", "devices", "revision"}
    return before.model_dump(exclude=ignored) != after.model_dump(exclude=ignored)
