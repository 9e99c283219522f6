"""One manager: its services, and the loops that keep rows and agents in step."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, User, Viewer
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.batch import AbandonedRuns, Claims
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.deadlines import Deadlines
from backendai_jupyter.manager.dependents import Dependents
from backendai_jupyter.manager.lost import LostAgents
from backendai_jupyter.manager.members import Members
from backendai_jupyter.manager.networks import Networks
from backendai_jupyter.manager.observer import Observer
from backendai_jupyter.manager.reconciler import Reconciler
from backendai_jupyter.manager.requests import Requests
from backendai_jupyter.manager.scheduler.foresight import Foresight
from backendai_jupyter.manager.scheduler.scheduler import Scheduler
from backendai_jupyter.manager.sessions import Sessions
from backendai_jupyter.manager.statistics import Statistics
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.jupyter_sessions import JupyterSessionStore
from backendai_jupyter.store.members import MemberStore
from backendai_jupyter.store.presets import PresetStore
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.runs import RunStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from backendai_jupyter.store.vfolders import VFolderStore
from backendai_jupyter.supervisor import Loop, Period, Supervisor

_DEADLINES_PASS_S = 1.0
_LOST_PASS_S = 1.0
_ABANDONED_PASS_S = 2.0
_HINT_PASS_S = 60.0
_MAX_BACKOFF_S = 5.0
_TOO_MANY_FAILURES = 3  # in a row: of a single one another manager need not hear
_TIDY_PASS_S = 300.0  # only for what a killed manager left half done


class Manager:
    """Requests go down (scheduler, reconciler), reports come up (observer).

    Each loop is woken by whoever has work for it, in whichever manager, and passes over
    everything each ``full_pass_s`` seconds in any case.  What must be decided by one, the
    manager does that ``leads``.  ``settings`` may change at any time.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        database: Database,
        cluster: ClusterStore,
        live: LiveStore,
        sealer: Sealer,
        supervisor: Supervisor,
        hosts: Mapping[str, VFolderHost],
        default_host: str,
        kernel_ids: tuple[int, int],
        settings: BackendAI,
        leads: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cluster_id = cluster_id
        self._name, self._leads = uuid.uuid4().hex, leads
        self.board = Board()
        self.users, self.presets = UserStore(database), PresetStore(database)
        self.agents = AgentStore(database)
        self.jupyter_sessions = JupyterSessionStore(database)
        self.owner = User("", "")  # known after ``start``
        self._store = SessionStore(database)
        self.vfolders = VFolders(
            VFolderStore(database), hosts=hosts, default_host=default_host, owner_ids=kernel_ids,
            now=now, changed=self._folders_changed,
        )  # fmt: skip
        self._live, self.statistics = live, Statistics(live)
        self._settings, self._supervisor = settings, supervisor
        self._now = now
        self._members = self._make_members(MemberStore(database))
        scheduler = self._make_scheduler(database)
        self._reconciler = self._make_reconciler(cluster)
        self._observer = self._make_observer(sealer, self._reconciler)
        self.dependents = Dependents(self.cluster_id, database, cancelled=self._asked_for, now=now)
        self._schedule = self._led("scheduler", partial(self._place, scheduler), self._full_pass_s)
        self._reconcile = _loop("reconciler", self._reconciler.step, self._full_pass_s)
        self._observe = _loop("observer", self._observer.step, self._full_pass_s)
        self._networks = self._led("networks", self._make_networks(cluster).step, self._full_pass_s)
        self._tell_others = _loop("hints to managers", self._hint, _HINT_PASS_S)
        self.sessions = self._make_sessions(scheduler)
        self._deadlines = self._make_deadlines()
        self._lost_agents = self._make_lost_agents(cluster)
        self.claims = Claims(cluster)
        self._abandoned_runs = self._make_abandoned_runs(cluster)

    async def prepare(self) -> None:
        """Write the assignments of the kernels that a manager before this one had started."""
        await self._reconciler.step()

    async def start(self) -> None:
        """Begin to govern; the agents that have already reported are known on return."""
        self.owner = await self.users.ensure_owner(now=self._now())
        await self.vfolders.ensure_first(self.viewer)
        await self._observer.step()
        self._supervisor.loop(self._observe)
        self._supervisor.loop(self._schedule)
        self._supervisor.loop(self._reconcile)
        self._supervisor.loop(self._networks)
        self._supervisor.loop(self._tell_others)
        self._supervisor.loop(self._led("deadlines", self._deadlines.step, _DEADLINES_PASS_S))
        self._supervisor.loop(self._led("lost agents", self._lost_agents.step, _LOST_PASS_S))
        self._supervisor.loop(
            self._led("abandoned runs", self._abandoned_runs.step, _ABANDONED_PASS_S)
        )
        self._supervisor.task("claims", self.claims.run())
        self._supervisor.loop(self._led("folders", self.vfolders.tidy, _TIDY_PASS_S))
        self._supervisor.loop(_loop("doubtful", self.sessions.end_doubtful, self._full_pass_s))
        self._supervisor.loop(_loop("report hints", self._follow_reports, 0))
        self._supervisor.loop(_loop("hints of managers", self._follow_rows, 0))

    def is_able(self) -> bool:
        """Whether this manager can do what one that leads must: all stores answer it."""
        loops = (self._observe, self._reconcile)
        return all(loop.failures < _TOO_MANY_FAILURES for loop in loops)

    def leadership_changed(self) -> None:
        """Take note that this manager leads, or does no longer."""
        self._lost_agents.forget()
        self._abandoned_runs.forget()
        self._schedule.poke()

    def settings_changed(self) -> None:
        """Take note of settings that are others now: none waits any longer by the old ones."""
        for loop in (self._observe, self._schedule, self._reconcile):
            loop.poke()

    @property
    def viewer(self) -> Viewer:
        """The one local owner, on whose behalf a single-user server acts."""
        return Viewer(self.owner.id)

    def _make_sessions(self, scheduler: Scheduler) -> Sessions:
        return Sessions(
            self.cluster_id,
            store=self._store,
            members=self._members,
            requests=Requests(
                self.cluster_id,
                presets=self.presets,
                vfolders=self.vfolders,
                dependents=self.dependents,
                scheduler=scheduler,
                board=self.board,
                max_cluster_size=lambda: self._settings.max_cluster_size,
            ),
            scheduler=scheduler,
            board=self.board,
            live=self._live,
            enqueued=self._enqueued,
            changed=self._asked_for,
            trouble=self._trouble,
            now=self._now,
        )

    def _make_members(self, store: MemberStore) -> Members:
        return Members(
            store, self.board, attempts=lambda: self._settings.start_attempts, now=self._now
        )

    def _make_networks(self, cluster: ClusterStore) -> Networks:
        return Networks(self.cluster_id, cluster=cluster, sessions=self._store, board=self.board)

    def _make_scheduler(self, database: Database) -> Scheduler:
        return Scheduler(
            self.cluster_id,
            sessions=self._store,
            queue=QueueStore(database),
            foresight=Foresight(self.cluster_id, RunStore(database)),
            agents=self.agents,
            board=self.board,
            hosts=self.vfolders.hosts,
            policies=self._settings.groups,
            scheduled=self._asked_for,
            told=lambda: self._observe.poke(),
            again=lambda: self._schedule.poke(),
            now=self._now,
        )

    def _make_reconciler(self, cluster: ClusterStore) -> Reconciler:
        return Reconciler(
            self.cluster_id,
            cluster=cluster,
            sessions=self._store,
            members=self._members,
            board=self.board,
            restart_grace_s=lambda: self._settings.restart_grace_s,
            released=lambda: self._observe.poke(),
            again=lambda: self._reconcile.poke(),
            now=self._now,
        )

    def _make_observer(self, sealer: Sealer, reconciler: Reconciler) -> Observer:
        return Observer(
            self.cluster_id,
            live=self._live,
            sessions=self._store,
            members=self._members,
            agents=self.agents,
            board=self.board,
            sealer=sealer,
            released=reconciler.released,
            moved=self._rows_moved,
            now=self._now,
        )

    def _make_deadlines(self) -> Deadlines:
        return Deadlines(
            self.board,
            self._store,
            limits=self._settings.start_limits,
            changed=self._asked_for,
            now=self._now,
        )

    def _make_lost_agents(self, cluster: ClusterStore) -> LostAgents:
        return LostAgents(
            self.cluster_id,
            cluster=cluster,
            sessions=self._store,
            members=self._members,
            board=self.board,
            after_s=lambda: self._settings.agent_lost_s,
            moved=self._rows_moved,
            now=self._now,
        )

    def _make_abandoned_runs(self, cluster: ClusterStore) -> AbandonedRuns:
        return AbandonedRuns(
            self.cluster_id,
            cluster=cluster,
            sessions=self._store,
            after_s=lambda: self._settings.agent_lost_s,
            ended=self._asked_for,
            now=self._now,
        )

    def _trouble(self) -> str:
        """Return what keeps a loop without which nothing starts from its work."""
        loops = (self._observe, self._reconcile, self._schedule)
        return next((loop.trouble.rstrip(".") for loop in loops if loop.trouble), "")

    async def _follow_reports(self) -> None:
        async with self._live.subscribe(keys.REPORT_HINTS) as hints:
            async for _ in hints:
                self._observe.poke()

    async def _follow_rows(self) -> None:
        async with self._live.subscribe(keys.ROW_HINTS) as hints:
            async for manager in hints:
                if manager != self._name:
                    self.vfolders.look_again()
                    self._schedule.poke()
                    self._poke_those_who_tell_agents()
                    self._observe.poke()

    async def _hint(self) -> None:
        await self._live.publish(keys.ROW_HINTS, self._name)

    async def _place(self, scheduler: Scheduler) -> None:
        await self.dependents.step()  # what has ended well lets others start in this very pass
        await scheduler.step()

    def _enqueued(self) -> None:
        """Something waits: whoever leads must place it."""
        self._schedule.poke()
        self._tell_others.poke()

    def _asked_for(self) -> None:
        """What is wanted has changed: agents must be told, waiters must see it."""
        self._schedule.poke()
        self._poke_those_who_tell_agents()
        self._observe.poke()
        self._tell_others.poke()

    def _folders_changed(self) -> None:
        """Kernels may have to show others; who lists them in another manager must see it."""
        self._reconcile.poke()
        self._tell_others.poke()

    def _rows_moved(self) -> None:
        """Something ended or came alive: assignments may have to go, room may have appeared."""
        self._poke_those_who_tell_agents()
        self._schedule.poke()
        self._tell_others.poke()

    def _poke_those_who_tell_agents(self) -> None:
        self._reconcile.poke()
        self._networks.poke()

    def _full_pass_s(self) -> float:
        return self._settings.full_pass_s

    def _led(self, name: str, step: Callable[[], Awaitable[None]], period_s: Period) -> Loop:
        """A loop of the manager that leads."""

        async def step_if_leading() -> None:
            if self._leads():
                await step()

        return _loop(name, step_if_leading, period_s)

    async def drain(self, agent_id: str, *, is_drained: bool) -> None:
        """Let nothing new start on an agent, or let it again; what runs there goes on."""
        await self.agents.set_drained(agent_id, is_drained)
        self._enqueued()

    async def live(
        self, viewer: Viewer = SYSTEM, *, jupyter_kernel_id: str | None = None
    ) -> tuple[ComputeSession, ...]:
        """Return the sessions of this cluster that have not ended, oldest first."""
        return await self._store.live(
            self.cluster_id, viewer=viewer, jupyter_kernel_id=jupyter_kernel_id
        )

    async def observe(self) -> None:
        """Let the board say what agents have reported up to now."""
        await self._observer.step()

    async def end_all(self, *, reason: str) -> None:
        """End every session of this cluster and wait until nothing is left of them."""
        for session in await self.live():
            await self.sessions.terminate(session.id, SYSTEM, reason=reason)
        for session in await self.live():
            for kernel in session.kernels:
                await self.sessions.until_gone(kernel.id, timeout_s=self._settings.end_timeout_s)


def _loop(name: str, step: Callable[[], Awaitable[None]], period_s: Period) -> Loop:
    """A loop that says in a line that the database is away, and soon sees that it is back."""
    return Loop(
        name, step, period_s=period_s, max_backoff_s=_MAX_BACKOFF_S, expected=(Unavailable,)
    )
