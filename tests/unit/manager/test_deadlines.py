"""A start that takes longer than it may is given up, and its phase is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from backendai_jupyter.domain.progress import StartLimits
from backendai_jupyter.domain.records import SYSTEM, ComputeSession, User
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ExitReason, KernelReport, Phase
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.manager.deadlines import Deadlines
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.samples import new_session, report


class Start:
    """A start of one kernel, seen through the board, and a clock that the test turns."""

    def __init__(self, database: Database, owner: User, limits: StartLimits) -> None:
        self.board = Board()
        self.store = SessionStore(database)
        self.clock = 0.0
        self.changes = 0
        self._agents = AgentStore(database)
        self._owner = owner
        self._session_id = ""
        self.deadlines = Deadlines(
            self.board,
            self.store,
            limits=lambda: limits,
            changed=self._count,
            now=lambda: 1000.0,
            clock=lambda: self.clock,
        )

    def _count(self) -> None:
        self.changes += 1

    async def begin(self) -> None:
        await self._agents.record(report("a1", cpu=4, mem=8 << 30), now=1.0)
        session = await self.store.create(new_session(owner=self._owner.id), now=10.0)
        self._session_id = session.id
        await self.post()

    async def move(self, *statuses: Status, seen: KernelReport | None = None) -> None:
        for status in statuses:
            kernel = (await self.read()).main
            if status is Status.SCHEDULED:
                place = {kernel.id: "a1"}
                await self.store.claim(self._session_id, place, reason="", by="t", now=11.0)
            else:
                await self.store.move(kernel.id, status, reason="", by="t", now=12.0)
        await self.post(seen)

    async def post(self, seen: KernelReport | None = None) -> None:
        session = await self.read()
        await self.board.post([Notice.of(session, session.main, seen)])

    async def at(self, clock: float) -> ComputeSession:
        """Let the time come, look, and return what has become of the session."""
        self.clock = clock
        await self.deadlines.step()
        await self.post()
        return await self.read()

    async def read(self) -> ComputeSession:
        return await self.store.get(self._session_id, SYSTEM)


def limits(total_s: float = 0, **by_status: float) -> StartLimits:
    return StartLimits.read(by_status, field="f", total_s=total_s)


async def test_what_waits_too_long_is_cancelled(database: Database, owner: User) -> None:
    start = Start(database, owner, limits(PENDING=10))
    await start.begin()
    assert (await start.at(0)).status is Status.PENDING
    assert (await start.at(9)).status is Status.PENDING
    session = await start.at(10)
    assert session.status is Status.CANCELLED
    assert session.status_reason == "Gave up after 10 s in PENDING: Waiting for the scheduler."
    assert session.main.exit is not None
    assert session.main.exit.reason is ExitReason.TIMED_OUT
    assert start.changes == 1
    await start.at(100)
    assert start.changes == 1


async def test_each_status_has_its_own_time(database: Database, owner: User) -> None:
    start = Start(database, owner, limits(PENDING=10, SCHEDULED=10, CREATING=10))
    await start.begin()
    await start.at(0)
    await start.move(Status.SCHEDULED)
    await start.at(9)
    await start.move(Status.CREATING)
    assert (await start.at(18)).status is Status.CREATING
    seen = KernelReport(
        kernel_id=(await start.read()).main.id, generation=1, phase=Phase.CREATING, step="answer"
    )
    await start.post(seen)
    start.clock = 28
    await start.deadlines.step()
    session = await start.read()
    assert session.status is Status.TERMINATING
    assert session.status_reason == (
        "Gave up after 10 s in CREATING (step answer): Waiting for the first answer of its program."
    )


async def test_the_total_counts_from_the_beginning(database: Database, owner: User) -> None:
    start = Start(database, owner, limits(total_s=20))
    await start.begin()
    await start.at(0)
    await start.move(Status.SCHEDULED, Status.PREPARING)
    assert (await start.at(19)).status is Status.PREPARING
    session = await start.at(20)
    assert session.status is Status.TERMINATING
    assert session.status_reason == (
        "Gave up after 20 s in all, then in PREPARING: Its agent prepares its place."
    )


async def test_what_runs_or_has_got_on_is_left_alone(database: Database, owner: User) -> None:
    start = Start(database, owner, limits(PENDING=10))
    await start.begin()
    await start.at(0)
    kernel = (await start.read()).main
    await start.store.claim(kernel.session_id, {kernel.id: "a1"}, reason="", by="t", now=1.0)
    start.clock = 50
    await start.deadlines.step()  # the board has not heard of it yet
    assert (await start.read()).status is Status.SCHEDULED
    running = KernelReport(kernel_id=kernel.id, generation=1, phase=Phase.RUNNING)
    await start.move(Status.RUNNING, seen=running)
    start.clock = 10_000
    await start.deadlines.step()
    assert (await start.read()).status is Status.RUNNING
    assert start.changes == 0


async def test_followers_hear_what_is_up_then_what_changes(database: Database, owner: User) -> None:
    start = Start(database, owner, limits())
    await start.begin()
    told: list[list[Status]] = []

    def tell(notices: Sequence[Notice]) -> None:
        told.append([notice.status for notice in notices])

    start.board.follow(tell)
    await start.post()
    await start.move(Status.SCHEDULED)
    start.board.unfollow(tell)
    await start.move(Status.CREATING)
    assert told == [[Status.PENDING], [Status.SCHEDULED]]


@pytest.mark.parametrize(
    ("status", "generation", "seen", "starting"),
    [
        (Status.PENDING, 1, None, True),
        (Status.CREATING, 1, Phase.CREATING, True),
        (Status.RUNNING, 1, Phase.RUNNING, False),
        (Status.RESTARTING, 1, Phase.EXITED, False),  # nobody has asked for it again
        (Status.RESTARTING, 2, Phase.EXITED, True),
        (Status.TERMINATING, 1, Phase.CREATING, False),
    ],
)
def test_who_starts(status: Status, generation: int, seen: Phase | None, starting: bool) -> None:
    notice = Notice(
        "k", status, "", generation=generation, agent_generation=int(seen is not None), phase=seen
    )
    assert notice.starting is starting
