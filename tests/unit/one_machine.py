"""A manager and an agent as a server embeds them, over a real database and in-memory seams."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.agent.agent import Agent
from backendai_jupyter.agent.launch import Tools
from backendai_jupyter.agent.networks import SessionNetworks
from backendai_jupyter.agent.node import Node
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.survivors import Survivor, survivors
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.supervisor import Supervisor
from tests.accelerators import PluginInMemory, make_pool
from tests.fakes import RelayInMemory, RuntimeInMemory, answer_at_once
from tests.helpers import eventually
from tests.misbehaviour import ClockThatJumps
from tests.unit.store.samples import counters

PASS_S = 0.05
WITHIN_S = 30.0
UNHURRIED = 20  # times longer than its heartbeats have it is a report valid
CPUS = 4
ONE_CPU = Slots({"cpu": 1, "mem": 1 << 30})

Ask = Callable[..., Awaitable[object]]


class OneMachine:
    """What outlives a server: the database, containers, the relay, directories.

    ``start`` is a server's start and ``kill`` its end by ``kill -9``, at whatever it waits for.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        *,
        runtime: RuntimeInMemory | None = None,
        relay: RelayInMemory | None = None,
        ask: Ask = answer_at_once,
        cluster: type[MemoryClusterStore] = MemoryClusterStore,
        live: type[MemoryLiveStore] = MemoryLiveStore,
        restart_grace_s: float = 30.0,
        **agent_traits: object,
    ) -> None:
        self.runtime = runtime or RuntimeInMemory()
        self.relay = relay or RelayInMemory()
        self.ask = ask
        self.clock = ClockThatJumps()
        self._path = path
        self.node = Node(path / "run", path / "scratch", os.getuid(), os.getgid())
        self.plugin = PluginInMemory()
        self.survived: list[Survivor] = []
        self.manager: Manager
        self.agent: Agent
        self.database: Database
        self._url = url
        self._agent_traits = agent_traits
        self._cluster_type, self._live_type = cluster, live
        self._cluster: MemoryClusterStore
        self._live: MemoryLiveStore
        self._sealer = Sealer()
        self.settings = BackendAI(
            full_pass_s=PASS_S, restart_grace_s=restart_grace_s, end_timeout_s=10.0
        )
        self._host = VFolderHost("local", path / "vfolders")
        self._supervisor: Supervisor | None = None
        self._others: dict[str, Supervisor] = {}  # of the other agents

    async def start(self) -> None:
        self._host.prepare()
        self._supervisor = Supervisor()
        self.database = await Database.open(self._url)
        self._cluster = self._cluster_type()
        self._live = self._live_type(clock=_unhurried)
        place = self._supervisor, self.node, self.runtime, self.relay
        self.agent = self._make_agent(self._cluster, self._live, self._sealer, "a", *place)
        self.manager = self._make_manager(self.settings)
        await self.manager.prepare()
        await self.agent.start()
        await self.manager.start()
        self.survived = await survivors(self.manager, timeout_s=5.0)

    async def another_manager(self, *, full_pass_s: float = PASS_S) -> Manager:
        """Start one over the same stores; it ends with the first."""
        settings = BackendAI(full_pass_s=full_pass_s, end_timeout_s=10.0)
        other = self._make_manager(settings)
        await other.start()
        return other

    def _make_manager(self, settings: BackendAI) -> Manager:
        assert self._supervisor is not None
        return Manager(
            "here",
            database=self.database,
            cluster=self._cluster,
            live=self._live,
            sealer=self._sealer,
            supervisor=self._supervisor,
            hosts={"local": self._host},
            default_host="local",
            kernel_ids=(os.getuid(), os.getgid()),
            settings=settings,
            now=self.clock,
        )

    async def kill(self) -> None:
        for name in tuple(self._others):
            await self.kill_agent(name)
        if self._supervisor is not None:
            await self._supervisor.close()
            await self.database.close()
            self._supervisor = None

    async def another_agent(
        self, name: str, *, runtime: RuntimeInMemory | None = None
    ) -> RuntimeInMemory:
        """Start an agent beside ``a``, of a node of its own; it ends with the first."""
        runtime = runtime or RuntimeInMemory()
        node = Node(self._path / name / "run", self._path / name, os.getuid(), os.getgid())
        self._others[name] = supervisor = Supervisor()
        place = supervisor, node, runtime, RelayInMemory()
        await self._make_agent(self._cluster, self._live, self._sealer, name, *place).start()
        await eventually(lambda: name in self.manager.board.reports)
        return runtime

    async def kill_agent(self, name: str) -> None:
        """End one of ``another_agent``, at whatever it does; its report expires."""
        await self._others.pop(name).close()
        await self._live.delete(keys.report(name))

    def _make_agent(
        self,
        cluster: MemoryClusterStore,
        live: MemoryLiveStore,
        sealer: Sealer,
        name: str,
        supervisor: Supervisor,
        node: Node,
        runtime: RuntimeInMemory,
        relay: RelayInMemory,
    ) -> Agent:
        settings = BackendAIAgent(stop_grace_s=0, heartbeat_s=PASS_S, **self._agent_traits)
        runtimes = {runtime.name: runtime}
        tools = Tools(
            node,
            runtimes,
            relay,
            self.ask,  # type: ignore[arg-type]
            settings,
            make_pool(node.scratch_root, self.plugin, settings),
            SessionNetworks(runtimes),
            sealer.secret_of,
        )
        return Agent(
            name,
            capacity=lambda: Slots({"cpu": Decimal(CPUS), "mem": 64 << 30}),
            cluster=cluster,
            live=live,
            sealer=sealer,
            tools=tools,
            supervisor=supervisor,
            hosts={"local": self._host},
        )

    async def ask_for(
        self,
        slots: Slots = ONE_CPU,
        *,
        kernel_id: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> ComputeSession:
        """Ask for a session, as a server does that calls its kernel ``kernel_id``."""
        request = self.request(slots, kernel_id=kernel_id, options=options)
        return await self.manager.sessions.enqueue(request, self.manager.viewer)

    def request(
        self,
        slots: Slots = ONE_CPU,
        *,
        kernel_id: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Request:
        return Request(
            kernelspec="backendai-python",
            image="python",
            argv=("python", "{connection_file}"),
            defaults=Options(resources=slots),
            layers=[Options.parse(options or {})],
            kernel_id=kernel_id,
            for_server=kernel_id is not None,
        )

    async def started(
        self, slots: Slots = ONE_CPU, *, kernel_id: str | None = None
    ) -> ComputeSession:
        session = await self.ask_for(slots, kernel_id=kernel_id)
        await self.until_running(session)
        return session

    async def until_running(self, session: ComputeSession, *, generation: int = 1) -> None:
        waiting = self.manager.sessions.until_running(session.id, generation=generation)
        async with asyncio.timeout(WITHIN_S):
            await waiting

    async def end(self, session: ComputeSession) -> None:
        viewer = self.manager.viewer
        await self.manager.sessions.terminate(session.id, viewer, reason="It is enough.")

    async def until(self, session: ComputeSession, *statuses: Status) -> ComputeSession:
        """Return the session once it has one of the statuses."""

        async def found() -> ComputeSession | None:
            now = await SessionStore(self.database).get(session.id, SYSTEM)
            return now if now.status in statuses else None

        reached = await eventually(found)
        assert reached is not None
        return reached

    async def until_over(self, session: ComputeSession) -> ComputeSession:
        return await self.until(session, *FINAL)

    async def held(self) -> dict[str, tuple[int, int]]:
        """Return (reserved, used) in thousandths for each slot of which something is held."""
        found = await counters(self.database)
        return {slot: amounts for slot, amounts in found.items() if amounts != (0, 0)}

    async def has_nothing(self) -> bool:
        """Whether no kernel has left anything."""
        left = [*self.runtime.containers, *self.relay.channels, *self.node.kernels()]
        return not left and not await self.held()


def _unhurried() -> float:
    """The time of the live store: all share one loop, which a busy machine may hold up."""
    return time.monotonic() / UNHURRIED


Start = Callable[..., Awaitable[OneMachine]]
