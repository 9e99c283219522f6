"""Keep the networks of this node as the cluster store has them, and say what can be had here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.domain.wire import Assignment, ClusterMode, NetworkReport, Swarm
from backendai_jupyter.errors import BackendError, RuntimeFailed
from backendai_jupyter.points import reached
from backendai_jupyter.supervisor import Loop, Supervisor

log = logging.getLogger(__name__)

_IN_USE = "Something is still attached to it."
_NO_SWARM = (
    "The Docker Engine of this agent does not manage a swarm any more, so that no overlay can be "
    "made here."
)


@runtime_checkable
class Overlays(Protocol):
    """The networks of a runtime that can put kernels of several nodes on one."""

    async def swarm(self) -> Swarm | None:
        """Return the swarm that it is in now."""
        ...

    async def make_overlay(self, session_id: str) -> None:
        """Make the session's overlay; succeed if it is there, and this agent's own."""
        ...

    async def remove_overlay(self, session_id: str) -> bool:
        """Whether it is gone; it stays while something is attached."""
        ...

    async def overlays(self) -> set[str]:
        """Return the sessions that this agent has made one for."""
        ...


class Networking:
    """Makes and removes overlays as assigned, and ends networks that are of no use any more.

    The watch makes it fast, a pass each heartbeat makes it correct.
    """

    def __init__(
        self, agent_id: str, *, cluster: ClusterStore, tools: Tools, changed: Callable[[], None]
    ) -> None:
        self._agent_id = agent_id
        self._cluster = cluster
        self._tools = tools
        self._changed = changed
        able = (r.networks for r in tools.runtimes.values() if isinstance(r.networks, Overlays))
        self._overlays: Overlays | None = next(able, None)
        self._revision = 0
        self._loop = Loop(
            "agent networks",
            self.tend,
            period_s=lambda: tools.settings.heartbeat_s,
            expected=(BackendError, OSError),
        )
        self.swarm: Swarm | None = None
        self.reports: tuple[NetworkReport, ...] = ()

    @property
    def cluster_modes(self) -> tuple[ClusterMode, ...]:
        """Of which sessions of several kernels some can run here."""
        runtimes = self._tools.runtimes.values()
        offered = {mode for runtime in runtimes for mode in runtime.networks.modes()}
        return tuple(sorted(offered))

    def start(self, supervisor: Supervisor) -> None:
        """Go on by itself."""
        supervisor.loop(self._loop)
        watch = Loop("agent network watch", self._follow, period_s=0, expected=(BackendError,))
        supervisor.loop(watch)

    async def tend(self) -> None:
        """Compare what there is with what there should be."""
        former = (self.swarm, self.reports, self.cluster_modes)
        try:
            await self._tend_overlays()
            await self._tools.networks.sweep(self._assigned)
        finally:
            if (self.swarm, self.reports, self.cluster_modes) != former:
                self._changed()

    async def _follow(self) -> None:
        prefix = keys.networks(self._agent_id)
        async with self._cluster.watch(prefix, after=self._revision) as batches:
            async for batch in batches:
                self._revision = max(self._revision, batch[-1].revision)
                self._loop.poke()

    async def _tend_overlays(self) -> None:
        if self._overlays is not None:
            self.swarm = await self._overlays.swarm()
        prefix = keys.networks(self._agent_id)
        listing = await self._cluster.list(prefix)
        self._revision = max(self._revision, listing.revision)
        wanted = {entry.key.removeprefix(prefix) for entry in listing.entries}
        there: set[str] = set()
        if self._overlays is not None and self.swarm is not None and self.swarm.manages:
            there = await self._overlays.overlays()
        found = [await self._made(one) for one in sorted(wanted - there)]
        found += [NetworkReport(session_id=one, ready=True) for one in sorted(wanted & there)]
        found += [left for one in sorted(there - wanted) if (left := await self._removed(one))]
        self.reports = tuple(found)

    async def _made(self, session_id: str) -> NetworkReport:
        try:
            if self._overlays is None or self.swarm is None or not self.swarm.manages:
                raise RuntimeFailed(_NO_SWARM)
            await self._overlays.make_overlay(session_id)
        except RuntimeFailed as error:
            log.warning("no network for session %s: %s", session_id, error)
            return NetworkReport(session_id=session_id, ready=False, message=str(error))
        await reached("agent.overlay.made")
        return NetworkReport(session_id=session_id, ready=True)

    async def _removed(self, session_id: str) -> NetworkReport | None:
        """Return what there is to say of an overlay that is still there; None: it is not."""
        assert self._overlays is not None
        await reached("agent.overlay.unwanted")
        try:
            if await self._overlays.remove_overlay(session_id):
                return None
            problem = _IN_USE
        except RuntimeFailed as error:
            problem = str(error)
            log.warning("the network of session %s is not removed yet: %s", session_id, error)
        return NetworkReport(session_id=session_id, ready=False, message=problem)

    async def _assigned(self) -> set[str]:
        """Return the sessions of which a kernel is assigned to this agent."""
        sessions = set()
        for entry in (await self._cluster.list(keys.assignments(self._agent_id))).entries:
            try:
                sessions.add(Assignment.model_validate_json(entry.value).session_id)
            except ValidationError:
                log.debug("%s is not followed; what it has here is kept", entry.key)
        return sessions
