"""A pass over a real database: what was decided is claimed, unless it is not true any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from backendai_jupyter.domain.groups import GroupPolicy, HeadOfLine, Order, Strategy
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, User
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.reports import Refusal
from backendai_jupyter.manager.scheduler.foresight import Foresight
from backendai_jupyter.manager.scheduler.scheduler import Scheduler
from backendai_jupyter.manager.scheduler.snapshot import Estimate, Placed, Why
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.runs import RunStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.manager.scheduler.samples import agent_of, session, waiting
from tests.unit.store.samples import add_user, new_session, report

GIB = 1 << 30


class Cluster:
    """A scheduler with its stores, and agents that are there as long as the board says."""

    def __init__(self, database: Database, owner: str) -> None:
        self.policies: dict[str, GroupPolicy] = {}
        self.sessions = SessionStore(database)
        self.agents = AgentStore(database)
        self.queue = QueueStore(database)
        self.runs = RunStore(database)
        self.board = Board()
        self.now = 10.0
        self.owner = owner
        self.told = self.again = 0
        self.clock_s, self.each_look_s = 0.0, 0.0
        self.scheduler = self.another()

    def another(self) -> Scheduler:
        return Scheduler(
            "here",
            sessions=self.sessions,
            queue=self.queue,
            agents=self.agents,
            board=self.board,
            hosts={},
            foresight=Foresight("here", self.runs, clock=self._clock),
            policies=self._policies,
            scheduled=lambda: None,
            told=self._was_told,
            again=self._must_come_again,
            now=lambda: self.now,
            clock=self._clock,
        )

    def _clock(self) -> float:
        self.clock_s += self.each_look_s
        return self.clock_s

    def _must_come_again(self) -> None:
        self.again += 1

    def _policies(self) -> Mapping[str, GroupPolicy]:
        return self.policies

    def _was_told(self) -> None:
        self.told += 1

    async def add_agent(self, agent_id: str, *, cpu: int = 4, group: str = "default") -> None:
        said = report(agent_id, cpu=cpu, mem=64 * GIB)
        said = said.model_copy(update={"resource_group": group})
        await self.agents.record(said, now=1.0)
        self.board.reports[agent_id] = said

    async def ask(self, cpu: int = 1, **fields: object) -> ComputeSession:
        self.now += 1
        slots = Slots({"cpu": cpu, "mem": GIB})
        new = new_session(**{"owner": self.owner, "slots": slots, "mounts": (), **fields})
        return await self.sessions.create(new, now=self.now)

    async def run(self, *, seconds: float | None = None) -> None:
        """Start a session, and end it after so many seconds."""
        session = await self.ask()
        kernel_id, began = session.main.id, self.now
        await self.scheduler.step()
        for status in (Status.RUNNING, Status.TERMINATING, Status.TERMINATED):
            if seconds is None and status is not Status.RUNNING:
                return
            await self.sessions.move(kernel_id, status, reason="", by="a", now=self.now)
            self.now = began + (seconds or 0.0)

    async def status(self, session: ComputeSession) -> Status:
        return (await self.sessions.get(session.id, SYSTEM)).status

    async def place_of(self, session: ComputeSession) -> str | None:
        return (await self.sessions.get(session.id, SYSTEM)).main.agent_id


@pytest.fixture
def cluster(database: Database, owner: User) -> Cluster:
    return Cluster(database, owner.id)


async def test_groups_are_those_configured_and_those_that_agents_name(cluster: Cluster) -> None:
    cluster.policies["batch"] = GroupPolicy()
    await cluster.add_agent("a", group="gpu")
    assert cluster.scheduler.groups() == ["batch", "default", "gpu"]


async def test_a_session_starts_on_an_agent_of_its_group(cluster: Cluster) -> None:
    await cluster.add_agent("a")
    await cluster.add_agent("b", group="gpu")
    asked = await cluster.ask(resource_group="gpu")
    elsewhere = await cluster.ask(resource_group="none")
    await cluster.scheduler.step()
    assert await cluster.place_of(asked) == "b"
    assert await cluster.status(elsewhere) is Status.PENDING


async def test_reasons_are_told_when_they_change(cluster: Cluster) -> None:
    await cluster.add_agent("a", cpu=2)
    first, big = await cluster.ask(1), await cluster.ask(2)
    for _ in range(3):
        await cluster.scheduler.step()
    assert cluster.told == 1
    waiting = await cluster.sessions.get(big.id, SYSTEM)
    assert "cpu 2 was asked for and 1 is free on agent a" in waiting.status_reason
    await cluster.sessions.terminate(first.id, SYSTEM, reason="", by="x", now=99.0)
    await cluster.sessions.move(first.main.id, Status.TERMINATED, reason="", by="a", now=99.0)
    await cluster.scheduler.step()
    assert await cluster.status(big) is Status.SCHEDULED


async def test_what_waits_is_told_of_agents_that_are_there_and_cannot_be_used(
    cluster: Cluster,
) -> None:
    cluster.board.refusals = {"b": Refusal("b", "9.0", "Agent b is too new.")}
    asked = await cluster.ask()
    await cluster.scheduler.step()
    told = (await cluster.sessions.get(asked.id, SYSTEM)).status_reason
    assert told == (
        "Waiting for an agent: none of resource group 'default' is alive. Agent b is too new."
    )
    assert (await cluster.scheduler.outlook())[asked.id].reason == told


async def test_attempts_are_counted_by_pass_until_others_may_pass(cluster: Cluster) -> None:
    """F41: the number of attempts is honoured over passes."""
    cluster.policies["default"] = GroupPolicy(head_of_line=HeadOfLine.SKIP, skip_after=2)
    await cluster.add_agent("a", cpu=2)
    await cluster.ask(1)
    big, small = await cluster.ask(2), await cluster.ask(1)
    for _ in range(2):
        await cluster.scheduler.step()
        assert await cluster.status(small) is Status.PENDING
    await cluster.scheduler.step()
    assert (await cluster.status(big), await cluster.status(small)) == (
        Status.PENDING,
        Status.SCHEDULED,
    )


async def test_drf_reads_what_owners_have_from_the_ledger(
    cluster: Cluster, database: Database
) -> None:
    cluster.policies["default"] = GroupPolicy(order=Order.DRF)
    ann = await add_user(database, "ann")
    await cluster.add_agent("a", cpu=3)
    await cluster.ask(2)
    await cluster.scheduler.step()
    mine, hers = await cluster.ask(1), await cluster.ask(1, owner=ann)
    await cluster.scheduler.step()
    assert (await cluster.status(mine), await cluster.status(hers)) == (
        Status.PENDING,
        Status.SCHEDULED,
    )


async def test_turns_go_on_from_pass_to_pass(cluster: Cluster) -> None:
    cluster.policies["default"] = GroupPolicy(strategy=Strategy.ROUND_ROBIN)
    for name in "abc":
        await cluster.add_agent(name)
    turns = []
    for _ in range(4):
        asked = await cluster.ask()
        await cluster.scheduler.step()
        turns.append(await cluster.place_of(asked))
    assert turns == ["a", "b", "c", "a"]


async def test_trying_out_says_what_the_next_pass_does_and_takes_nothing(
    cluster: Cluster,
) -> None:
    """F42: what is said to start does, on the agent that was said, and nothing else is."""
    await cluster.add_agent("a", cpu=4)
    await cluster.add_agent("b", cpu=3)
    for cpu in (2, 2, 2, 1):
        wanted = Slots({"cpu": cpu, "mem": GIB})
        trial = session("trial", wanted, owner=cluster.owner, created_at=cluster.now + 1)
        said = await cluster.scheduler.try_out(trial)
        assert (await cluster.scheduler.try_out(trial)) == said
        asked = await cluster.ask(cpu)
        await cluster.scheduler.step()
        if isinstance(said, Placed):
            assert await cluster.place_of(asked) == agent_of(said)
        else:
            outlook = (await cluster.scheduler.outlook())[asked.id]
            assert await cluster.status(asked) is Status.PENDING
            assert (said.why, said.position, said.reason) == (
                outlook.why,
                outlook.position,
                outlook.reason,
            )


async def test_a_manager_that_does_not_lead_says_the_same_of_the_queue(cluster: Cluster) -> None:
    await cluster.add_agent("a", cpu=1)
    queue = [await cluster.ask() for _ in range(3)]
    await cluster.scheduler.step()
    said = await cluster.another().outlook()
    assert [said[s.id].position for s in queue[1:]] == [1, 2]
    assert {i: (d.why, d.position) for i, d in said.items()} == {
        i: (d.why, d.position) for i, d in (await cluster.scheduler.outlook()).items()
    }


async def test_an_agent_that_went_after_the_snapshot_gets_nothing(cluster: Cluster) -> None:
    """F43: of what was decided, only what can still be true is claimed."""
    await cluster.add_agent("a")
    asked = await cluster.ask()
    snapshot = await cluster.scheduler.snapshot(await cluster.queue.waiting("here"))
    placed = [Placed(s, {asked.main.id: "a"}) for s in snapshot.waiting]
    said = cluster.board.reports.pop("a")
    await cluster.scheduler.carry_out(placed)
    assert await cluster.status(asked) is Status.PENDING
    cluster.board.reports["a"] = said
    await cluster.scheduler.carry_out(placed)
    assert await cluster.status(asked) is Status.SCHEDULED


async def test_a_claim_that_fails_stops_no_other(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """F38: neither one that has gone nor one that is no session at all."""
    await cluster.add_agent("a")
    asked = await cluster.ask()
    (there,) = await cluster.queue.waiting("here")
    gone = session("gone")
    foreign = Placed(there, {"no-kernel-of-it": "a"})
    with caplog.at_level(logging.CRITICAL):
        await cluster.scheduler.carry_out(
            [Placed(gone, {"gone": "a"}), foreign, Placed(there, {asked.main.id: "a"})]
        )
    assert await cluster.status(asked) is Status.SCHEDULED


async def test_a_pass_that_claims_for_long_makes_room_for_one_that_knows_more(
    cluster: Cluster,
) -> None:
    await cluster.add_agent("a")
    queue = [await cluster.ask() for _ in range(4)]
    cluster.each_look_s = 0.9  # before the third claim more than two seconds are over
    await cluster.scheduler.step()
    urgent = await cluster.ask(2, priority=100)
    cluster.each_look_s = 0.0
    assert cluster.again == 1
    await cluster.scheduler.step()
    statuses = [await cluster.status(s) for s in (*queue, urgent)]
    assert [s is Status.SCHEDULED for s in statuses] == [True, True, False, False, True]


async def test_what_is_not_to_start_yet_starts_at_its_time(cluster: Cluster) -> None:
    await cluster.add_agent("a")
    asked = await cluster.ask(not_before=50.0)
    await cluster.scheduler.step()
    assert (await cluster.scheduler.outlook())[asked.id].why is Why.TIME
    cluster.now = 50.0
    await cluster.scheduler.step()
    assert await cluster.status(asked) is Status.SCHEDULED


async def test_passes_at_once_claim_each_session_once(cluster: Cluster) -> None:
    """F40: two managers that both believe to lead decide the same sessions at the same time."""
    for name in "ab":
        await cluster.add_agent(name, cpu=3)
    queue = [await cluster.ask() for _ in range(8)]
    managers = [cluster.scheduler, cluster.another(), cluster.another()]
    await asyncio.gather(*(manager.step() for manager in managers))
    await cluster.scheduler.step()
    statuses = [await cluster.status(one) for one in queue]
    assert statuses == [Status.SCHEDULED] * 6 + [Status.PENDING] * 2
    for one in queue[:6]:
        steps = await cluster.sessions.history(one.id, SYSTEM)
        assert [step.after for step in steps] == [Status.PENDING, Status.SCHEDULED]


async def test_what_waits_is_told_when_it_may_start_once_others_have_ended(
    cluster: Cluster,
) -> None:
    await cluster.add_agent("a", cpu=1)
    for _ in range(3):
        await cluster.run(seconds=100.0)
    before = cluster.now
    await cluster.run()
    first, second = await cluster.ask(), await cluster.ask()
    await cluster.scheduler.step()
    said = await cluster.another().outlook()
    assert said[first.id].estimate == Estimate(before + 101.0, before + 101.0)
    assert said[second.id].estimate == Estimate(before + 201.0, before + 201.0)
    trial = session("trial", Slots({"cpu": 1, "mem": GIB}), created_at=cluster.now + 1)
    tried = waiting(await cluster.scheduler.try_out(trial))
    assert tried.estimate == Estimate(before + 301.0, before + 301.0)
