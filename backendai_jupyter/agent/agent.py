"""The agent: converge this node's containers to its assignments, and report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from pydantic import ValidationError

from backendai_jupyter import __version__
from backendai_jupyter.agent.batch import LOOK_S, look_at_progress
from backendai_jupyter.agent.images import Images
from backendai_jupyter.agent.launch import LOG_TAIL_BYTES, Tools
from backendai_jupyter.agent.networking import Networking
from backendai_jupyter.agent.runtime.base import ContainerState, KernelRuntime
from backendai_jupyter.agent.statistics.statistics import Statistics
from backendai_jupyter.agent.worker import KernelWorker
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import Change, ClusterStore, LiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import OLDEST_PROTOCOL, PROTOCOL, AgentReport, Assignment
from backendai_jupyter.errors import BackendError, RelayFailed
from backendai_jupyter.storage.hosts import VFolderHost, read_markers
from backendai_jupyter.supervisor import Loop, Period, Supervisor

log = logging.getLogger(__name__)

LOG_TTL_S = 60.0  # how long a log that was asked for waits to be read


class Agent:
    """One node's daemon.

    Assignments that appear, change or vanish below this agent's prefix are the only
    orders it takes; its report is the only thing it says.  The watch makes it fast, the
    full pass each ``heartbeat_s`` makes it correct.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        capacity: Callable[[], Slots],
        cluster: ClusterStore,
        live: LiveStore,
        sealer: Sealer,
        tools: Tools,
        supervisor: Supervisor,
        hosts: Mapping[str, VFolderHost],
        notes: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self.agent_id = agent_id
        self._capacity = capacity
        self._cluster = cluster
        self._live = live
        self._sealer = sealer
        self._tools = tools
        self._supervisor = supervisor
        self._settings = tools.settings
        self._hosts = hosts
        self._notes = notes
        self._markers: dict[str, str] = {}  # of the hosts that are mounted here
        self._workers: dict[str, KernelWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of the workers
        self._images = Images(tools.runtimes, tools.settings, supervisor)
        self._unread: dict[str, str] = {}  # in words, by key
        self._published = ""
        self._revision = 0
        self._report_loop = _loop("report", self._publish, self._heartbeat_s)
        self._full_pass_loop = _loop("full pass", self._full_pass, self._heartbeat_s)
        self._relay_loop = _loop("relay", self._tend_relay, self._heartbeat_s)
        self._registries_loop = _loop(
            "registries", self._look_at_registries, lambda: self._settings.registry_refresh_s
        )
        self._relay_is_lost = False
        self._is_leaving = False
        self._networking = Networking(
            agent_id, cluster=cluster, tools=tools, changed=self._report_loop.poke
        )
        self._statistics = Statistics(
            agent_id,
            runtimes=tools.runtimes,
            node=tools.node,
            settings=tools.settings,
            live=live,
        )

    async def start(self) -> None:
        """Begin to follow assignments; returns after the first full pass and report.

        The runtimes and the relay in ``tools`` must be open.
        """
        for note in _notes(self._tools.runtimes):
            log.warning("On this node: %s", note)
        # Only now: a container that is listed later may be gone, and its devices another's.
        containers = await self._containers()
        await self._tools.devices.adopt({id_: one.devices for id_, one in containers.items()})
        await self._full_pass()
        await self._networking.tend()
        await self._publish()
        self._supervisor.loop(self._report_loop)
        self._supervisor.loop(self._full_pass_loop)
        self._supervisor.loop(self._relay_loop)
        self._supervisor.loop(self._registries_loop)
        self._networking.start(self._supervisor)
        self._statistics.start(self._supervisor)
        self._supervisor.loop(_loop("watch", self._follow_assignments, 0))
        self._supervisor.loop(_loop("logs", self._answer_log_requests, 0))
        self._supervisor.loop(_loop("batches", self._look_at_batches, lambda: LOOK_S))
        for runtime in self._tools.runtimes.values():
            follow = partial(self._follow_exits, runtime)
            self._supervisor.loop(_loop(f"exits {runtime.name}", follow, 0))
            look = partial(self._follow_images, runtime)
            self._supervisor.loop(_loop(f"image changes {runtime.name}", look, 0))

    async def stop_all(self, *, within_s: float) -> bool:
        """End every kernel of this agent, assigned or not, and take no more orders.

        Returns whether nothing is left of them.
        """
        self._is_leaving = True
        for worker in tuple(self._workers.values()):
            worker.want(None)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        return not self._tasks

    def relay_lost(self) -> None:
        """Take note that the relay process has ended; it is started again soon."""
        self._relay_is_lost = True
        self._relay_loop.poke()

    def settings_changed(self) -> None:
        """Take note of settings that are others now, and report what follows from them."""
        loops = (self._report_loop, self._full_pass_loop, self._relay_loop, self._registries_loop)
        for loop in loops:
            loop.poke()
        self._statistics.settings_changed()

    def look_for_images(self) -> None:
        """Read the runtimes' images again soon, e.g. after one was built."""
        self._full_pass_loop.poke()

    async def _full_pass(self) -> None:
        await self._images.refresh()
        self._markers = await asyncio.to_thread(read_markers, self._hosts)
        await self._tools.devices.refresh()
        containers = await self._containers()
        remains = await asyncio.to_thread(self._tools.node.kernels)
        relayed = await self._relayed()
        # Last, and nothing is awaited after it: what the watch brings meanwhile is newer.
        listing = await self._cluster.list(keys.assignments(self.agent_id))
        while listing.revision < self._revision:  # the watch has overtaken it
            listing = await self._cluster.list(keys.assignments(self.agent_id))
        assigned = () if self._is_leaving else listing.entries
        prefix = keys.assignments(self.agent_id)
        wanted = {e.key.removeprefix(prefix): self._read(e.key, e.value) for e in assigned}
        self._unread = {e.key: self._unread[e.key] for e in assigned if e.key in self._unread}
        unread = {kernel_id for kernel_id, assignment in wanted.items() if assignment is None}
        there = {*wanted, *containers, *remains, *relayed, *self._workers}
        for kernel_id in there - unread:
            worker = self._worker(kernel_id)
            worker.want(wanted.get(kernel_id))
            state = containers.get(kernel_id)
            if state is None or state.exit_code is not None:
                worker.look()
        self._taken_note(listing.revision)

    async def _containers(self) -> dict[str, ContainerState]:
        runtimes = self._tools.runtimes.values()
        return {state.kernel_id: state for one in runtimes for state in await one.list()}

    async def _relayed(self) -> list[str]:
        """Return the kernels that have channels; none while there is no relay."""
        try:
            return await self._tools.relay.kernels()
        except RelayFailed as error:
            log.warning("the relay does not say which kernels it has: %s", error)
            return []

    async def _tend_relay(self) -> None:
        """Start a relay that was lost again, with the channels that it had."""
        if not self._relay_is_lost:
            return
        log.error("The relay process ended; it is started again.")
        await self._tools.relay.open()
        self._relay_is_lost = False
        for worker in tuple(self._workers.values()):
            await worker.reopen()

    async def _follow_assignments(self) -> None:
        prefix = keys.assignments(self.agent_id)
        async with self._cluster.watch(prefix, after=self._revision) as batches:
            async for batch in batches:
                for change in batch:
                    self._apply(change, prefix)
                self._taken_note(batch[-1].revision)

    def _apply(self, change: Change, prefix: str) -> None:
        if change.revision <= self._revision:
            return  # a full pass has already seen it, or something newer
        kernel_id = change.key.removeprefix(prefix)
        if change.value is not None and not self._is_leaving:
            if (assignment := self._read(change.key, change.value)) is not None:
                self._worker(kernel_id).want(assignment)
        elif self._unread.pop(change.key, "") or kernel_id in self._workers:
            self._worker(kernel_id).want(None)

    def _read(self, key: str, text: str) -> Assignment | None:
        """Return None for what another version has written and this one does not understand.

        Its kernel stays as it is, neither started nor ended.
        """
        former = self._unread.pop(key, "")
        try:
            return Assignment.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = f"{key} is not followed: it cannot be read ({where}: {first['msg']})."
            if problem != former:
                log.error("%s", problem)
            self._unread[key] = problem
            return None

    def _taken_note(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        self._report_loop.poke()

    def _worker(self, kernel_id: str) -> KernelWorker:
        if kernel_id not in self._workers:
            worker = KernelWorker(
                kernel_id,
                self._tools,
                self._sealer,
                images=self._images,
                changed=self._report_loop.poke,
            )
            self._workers[kernel_id] = worker
            task = self._supervisor.task(f"worker {kernel_id}", self._work(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._workers[kernel_id]

    async def _work(self, worker: KernelWorker) -> None:
        try:
            await worker.run()
        finally:
            del self._workers[worker.kernel_id]
            self._report_loop.poke()

    async def _follow_exits(self, runtime: KernelRuntime) -> None:
        async for kernel_id in runtime.exits():
            if kernel_id in self._workers:
                self._workers[kernel_id].look()

    async def _follow_images(self, runtime: KernelRuntime) -> None:
        async for _ in runtime.image_changes():
            self.look_for_images()

    async def _answer_log_requests(self) -> None:
        async with self._live.subscribe(keys.log_requests(self.agent_id)) as requests:
            async for kernel_id in requests:
                text = await self._log_of(kernel_id)
                await self._live.put(keys.log(kernel_id), text, ttl_s=LOG_TTL_S)
                await self._live.publish(keys.log_hints(kernel_id), kernel_id)

    async def _log_of(self, kernel_id: str) -> str:
        for runtime in self._tools.runtimes.values():
            if any(state.kernel_id == kernel_id for state in await runtime.list()):
                return await runtime.log_tail(kernel_id, max_bytes=LOG_TAIL_BYTES)
        return ""

    async def _look_at_batches(self) -> None:
        launches = [w.launch for w in self._workers.values() if w.launch is not None]
        if await look_at_progress(launches, self._tools.node):
            self._report_loop.poke()

    async def _look_at_registries(self) -> None:
        await self._images.look_at_registries()
        self._report_loop.poke()

    async def _publish(self) -> None:
        report = AgentReport(
            agent_id=self.agent_id,
            revision=self._revision,
            version=__version__,
            protocol=PROTOCOL,
            oldest_protocol=OLDEST_PROTOCOL,
            capacity=self._capacity() + self._tools.devices.capacity(),
            resource_group=self._settings.resource_group,
            images=tuple(self._images.here.values()),
            pullable=tuple(self._images.pullable.values()),
            vfolder_hosts=self._markers,
            kernels=tuple(worker.report() for worker in self._workers.values()),
            devices=self._tools.devices.report(),
            cluster_modes=self._networking.cluster_modes,
            swarm=self._networking.swarm,
            networks=self._networking.reports,
            notes=self._all_notes(),
        )
        text, ttl_s = report.model_dump_json(), 4 * self._heartbeat_s()
        await self._live.put(keys.report(self.agent_id), text, ttl_s=ttl_s)
        if text != self._published:  # else it is only a sign of life
            await self._live.publish(keys.REPORT_HINTS, self.agent_id)
            self._published = text

    def _all_notes(self) -> tuple[str, ...]:
        of_node = (*_notes(self._tools.runtimes), *self._tools.devices.notes())
        return (*of_node, *self._images.notes(), *self._notes(), *self._unread.values())

    def _heartbeat_s(self) -> float:
        return self._settings.heartbeat_s


def _loop(name: str, step: Callable[[], Awaitable[None]], period_s: Period) -> Loop:
    """A loop that says in a line what is wrong with the node, an engine or the relay."""
    return Loop(f"agent {name}", step, period_s=period_s, expected=(BackendError, OSError))


def _notes(runtimes: Mapping[str, KernelRuntime]) -> tuple[str, ...]:
    return tuple(note for runtime in runtimes.values() for note in runtime.notes())
