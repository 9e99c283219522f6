"""Give sessions on several nodes a network: one agent of their swarm is told to make it."""

from __future__ import annotations

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.states import ASSIGNED
from backendai_jupyter.domain.wire import AgentReport, ClusterMode, NetworkAssignment
from backendai_jupyter.manager.board import Board
from backendai_jupyter.points import reached
from backendai_jupyter.store.sessions import SessionStore


class Networks:
    """The manager that leads writes a record for each network, and removes it.

    Which agent makes a network does not matter to those that use it: where that one is gone,
    another takes over what is there.
    """

    def __init__(
        self, cluster_id: str, *, cluster: ClusterStore, sessions: SessionStore, board: Board
    ) -> None:
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._sessions = sessions
        self._board = board

    async def step(self) -> None:
        """One pass over all networks and the sessions that need one."""
        listing = await self._cluster.list(keys.NETWORKS)
        makers: dict[str, str] = {}  # agent by session
        for entry in listing.entries:
            agent_id, session_id = entry.key.removeprefix(keys.NETWORKS).split("/", 1)
            if agent_id in self._board.reports:
                makers[session_id] = agent_id
        wanted = {}
        for session in await self._sessions.live(self._cluster_id, spread=True):
            if needs_network(session) and (maker := self._maker(session, makers)):
                record = NetworkAssignment(session_id=session.id)
                wanted[keys.network(maker, session.id)] = record.model_dump_json()
        known = {entry.key for entry in listing.entries}
        for key in wanted.keys() - known:
            await self._cluster.put_if(key, wanted[key], revision=0)
            await reached("manager.network.written")
        for entry in listing.entries:
            if entry.key not in wanted:
                await self._cluster.delete_if(entry.key, revision=entry.revision)

    def _maker(self, session: ComputeSession, makers: dict[str, str]) -> str | None:
        """Return the agent that makes a session's network; None while there is none."""
        if session.id in makers:
            return makers[session.id]
        reports = self._board.reports
        swarms = {_swarm(reports.get(k.agent_id or "")) for k in session.kernels} - {""}
        able = [
            agent_id
            for agent_id, report in sorted(reports.items())
            if report.swarm and report.swarm.manages and report.swarm.id in swarms
        ]
        return next(iter(able), None)


def needs_network(session: ComputeSession) -> bool:
    """Whether an agent has to make a network for the session before its kernels start."""
    is_spread = session.cluster_mode is ClusterMode.MULTI_NODE and len(session.kernels) > 1
    return is_spread and any(kernel.status in ASSIGNED for kernel in session.kernels)


def network_of(session: ComputeSession, board: Board) -> tuple[bool, str]:
    """Return whether kernels may start on the session's network, and if not, why."""
    message = "Waiting for the network of its session."
    for report in board.reports.values():
        for network in report.networks:
            if network.session_id == session.id:
                if network.ready:
                    return True, ""
                message = network.message or message
    return False, message


def _swarm(report: AgentReport | None) -> str:
    return report.swarm.id if report is not None and report.swarm else ""
