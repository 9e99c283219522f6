"""Work that must not be left half done goes on when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.errors import NotFound
from backendai_jupyter.supervisor import uninterrupted


async def test_a_caller_that_is_cancelled_learns_it_when_the_work_is_done() -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        done.set()

    async def call() -> None:
        began.set()
        await uninterrupted(work())

    began = asyncio.Event()
    caller = asyncio.create_task(call())
    await began.wait()
    caller.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done.is_set()


async def test_else_it_is_an_ordinary_call() -> None:
    async def work() -> int:
        return 7

    async def failing() -> int:
        raise NotFound("There is no such thing.")

    assert await uninterrupted(work()) == 7
    with pytest.raises(NotFound):
        await uninterrupted(failing())
