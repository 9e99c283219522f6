"""Pulls are shared by all who wait, and end with the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from backendai_jupyter.agent.pulls import Pulls, Tell
from backendai_jupyter.domain.wire import PullProgress
from backendai_jupyter.errors import NoSuchImage
from backendai_jupyter.supervisor import Supervisor
from tests.helpers import eventually

HALF = PullProgress(bytes_done=1, bytes_total=2, layers_total=1)


class WorkUnderControl:
    """A pull that gets on, ends and fails when the test says so."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.tell: Tell = lambda _: None
        self.may_end = asyncio.Event()
        self.problem: NoSuchImage | None = None

    async def __call__(self, tell: Tell) -> None:
        self.begun += 1
        self.tell = tell
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.problem is not None:
            raise self.problem


class Waiter:
    def __init__(self, pulls: Pulls, work: WorkUnderControl) -> None:
        self.heard: list[PullProgress] = []
        self.task = asyncio.create_task(pulls.join("image", work, self.heard.append))


@pytest.fixture
async def pulls() -> AsyncIterator[Pulls]:
    supervisor = Supervisor()
    yield Pulls(supervisor)
    await supervisor.close()


async def test_two_who_wait_share_one_pull_and_hear_the_same(pulls: Pulls) -> None:
    work = WorkUnderControl()
    first = Waiter(pulls, work)
    await eventually(lambda: work.begun)
    work.tell(HALF)
    second = Waiter(pulls, work)
    await eventually(lambda: second.heard)
    assert first.heard == [PullProgress(), HALF]
    assert second.heard == [HALF]
    work.may_end.set()
    await asyncio.gather(first.task, second.task)
    assert (work.begun, work.cancelled) == (1, 0)


async def test_it_goes_on_while_somebody_waits_and_ends_with_the_last(pulls: Pulls) -> None:
    work = WorkUnderControl()
    first, second = Waiter(pulls, work), Waiter(pulls, work)
    await eventually(lambda: second.heard)
    first.task.cancel()
    await asyncio.wait([first.task])
    work.tell(HALF)
    assert second.heard[-1] == HALF
    assert not work.cancelled
    second.task.cancel()
    await eventually(lambda: work.cancelled)


async def test_who_comes_after_the_last_has_left_begins_anew(pulls: Pulls) -> None:
    work = WorkUnderControl()
    first = Waiter(pulls, work)
    await eventually(lambda: work.begun)
    first.task.cancel()
    await asyncio.wait([first.task])
    second = Waiter(pulls, work)
    await eventually(lambda: work.begun == 2)
    work.may_end.set()
    await second.task


async def test_all_hear_why_it_failed_and_the_next_one_tries_again(pulls: Pulls) -> None:
    """F9: whoever waits for a pull is told how it ended."""
    work = WorkUnderControl()
    work.problem = NoSuchImage("There is none.")
    waiters = [Waiter(pulls, work), Waiter(pulls, work)]
    await eventually(lambda: waiters[1].heard)
    work.may_end.set()
    for waiter in waiters:
        with pytest.raises(NoSuchImage, match="There is none"):
            await waiter.task
    work.problem = None
    await Waiter(pulls, work).task
    assert work.begun == 2
