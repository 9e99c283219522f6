"""Measure all kernels of an agent and their node, and publish it in the live store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.runtime.base import ContainerState, KernelRuntime
from backendai_jupyter.agent.statistics.disk import Disk
from backendai_jupyter.agent.statistics.kernel import KernelMeter
from backendai_jupyter.agent.statistics.node import NodeMeter
from backendai_jupyter.agent.statistics.proc_files import Processes
from backendai_jupyter.agent.statistics.rate import Moment
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.statistics import AgentStatistics, KernelStatistics
from backendai_jupyter.errors import BackendError
from backendai_jupyter.supervisor import Loop, Supervisor

log = logging.getLogger(__name__)

MIN_TTL_S = 5.0
MAX_BACKOFF_S = 5.0  # a live store that is back is not to wait for longer


class Statistics:
    """One measurement after the other, each published whole.

    Every program of a kernel has a meter of its own, so that a restart begins with zero.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        runtimes: Mapping[str, KernelRuntime],
        node: Node,
        settings: BackendAIAgent,
        live: LiveStore,
    ) -> None:
        self._agent_id = agent_id
        self._runtimes = runtimes
        self._settings = settings
        self._live = live
        self._disk = Disk(node)
        self._node_meter = NodeMeter()
        self._meters: dict[str, KernelMeter] = {}  # by container
        self._loop = Loop(
            "agent statistics",
            self.step,
            period_s=lambda: settings.statistics_s,
            max_backoff_s=MAX_BACKOFF_S,
            expected=(BackendError, OSError),
        )

    def start(self, supervisor: Supervisor) -> None:
        supervisor.loop(self._loop)
        supervisor.loop(self._disk.loop)

    def settings_changed(self) -> None:
        self._loop.poke()

    async def step(self) -> None:
        """Measure once and publish."""
        running = await self._running()
        self._disk.watch(state.kernel_id for _, state in running)
        await self._meet(running)
        found = await asyncio.to_thread(self._measure, [state for _, state in running])
        ttl_s = max(3 * self._settings.statistics_s, MIN_TTL_S)
        await self._live.put(
            keys.statistics(self._agent_id), found.model_dump_json(exclude_none=True), ttl_s=ttl_s
        )

    async def _running(self) -> list[tuple[KernelRuntime, ContainerState]]:
        """Return the containers that run; a runtime that does not answer has none now."""
        found = []
        for runtime in self._runtimes.values():
            try:
                states = await runtime.list()
            except BackendError as error:
                log.warning("kernels of the %s runtime are not measured: %s", runtime.name, error)
            else:
                found += [(runtime, state) for state in states if state.exit_code is None]
        return found

    async def _meet(self, running: Sequence[tuple[KernelRuntime, ContainerState]]) -> None:
        """Have a meter for each container that runs, and for no other."""
        present = {state.container_id for _, state in running}
        self._meters = {id: meter for id, meter in self._meters.items() if id in present}
        for runtime, state in running:
            if state.container_id in self._meters:
                continue
            try:
                origin = await runtime.origin(state.kernel_id)
            except (BackendError, OSError) as error:
                log.warning("kernel %s is not measured: %s", state.kernel_id, error)
                continue
            if origin is not None:
                self._meters[state.container_id] = await asyncio.to_thread(
                    KernelMeter, state.container_id, state.generation, origin
                )

    def _measure(self, running: Sequence[ContainerState]) -> AgentStatistics:
        """Read all there is to read; blocks."""
        processes = Processes()
        kernels: dict[str, KernelStatistics] = {}
        for state in running:
            try:
                found = self._measured(state, processes)
            except Exception:  # whatever is wrong with one kernel, the others are measured
                log.exception("kernel %s is not measured", state.kernel_id)
            else:
                if found is not None:
                    kernels[state.kernel_id] = found
        node = self._node_meter.measure(
            Moment(), kernels_running=len(running), scratch=self._disk.scratch
        )
        return AgentStatistics(node=node, kernels=kernels)

    def _measured(self, state: ContainerState, processes: Processes) -> KernelStatistics | None:
        meter = self._meters.get(state.container_id)
        if meter is None:
            return None
        home_bytes = self._disk.home_bytes(state.kernel_id)
        return meter.measure(processes, Moment(), home_bytes=home_bytes)
