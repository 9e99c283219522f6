"""Run a process's background work; none of it may die unseen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

Period = float | Callable[[], float]  # in seconds; one that may change is a function


async def race(*runners: Coroutine[Any, Any, T]) -> T:
    """Return the result (or raise the error) of the first to end; the others are cancelled."""
    tasks = [asyncio.create_task(runner) for runner in runners]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return next(task for task in tasks if task in done).result()


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end, also when the caller is cancelled meanwhile; he learns it then.

    What a cancelled caller will not hear of any more is logged.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("failed after its caller had been cancelled: %s", error)
        raise


class Loop:
    """Call ``step`` every ``period_s``, or at once after ``poke``.

    A failing step is logged and retried with exponential delay, at most ``max_backoff_s``; a
    poke does not shorten that delay.  Errors of the kinds ``expected`` are logged as one line,
    any other with its traceback.  Cancellation always gets through.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[None]],
        *,
        period_s: Period,
        max_backoff_s: float = 30.0,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self.failures = 0  # in a row
        self.trouble = ""  # what the last step failed for, if it is of an expected kind
        self._step = step
        self._period_s = period_s
        self._max_backoff_s = max_backoff_s
        self._expected = expected
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Ask for a step soon; many pokes before it make one step."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()  # before the step: a poke during it is kept
            try:
                await self._step()
                self.failures, self.trouble = 0, ""
            except self._expected as error:
                self.failures, self.trouble = self.failures + 1, str(error)
                log.error("%s failed (%d in a row): %s", self.name, self.failures, error)
            except Exception:  # whatever it was, the loop must go on
                self.failures += 1
                log.exception("%s failed (%d in a row)", self.name, self.failures)
            await self._pause()

    async def _pause(self) -> None:
        if self.failures:
            delay_s = min(0.1 * 2**self.failures, self._max_backoff_s)
            await asyncio.sleep(delay_s)
            return
        period_s = self._period_s() if callable(self._period_s) else self._period_s
        with contextlib.suppress(TimeoutError):
            # Not wait_for: until Python 3.12 it can swallow a cancellation.
            async with asyncio.timeout(period_s):
                await self._wake.wait()


class Supervisor:
    """Owns the background tasks of one event loop; the only caller of ``create_task``."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def loop(self, loop: Loop) -> Loop:
        """Run ``loop`` until ``close``."""
        self.task(loop.name, loop.run())
        return loop

    def task(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` to its end in the background; an error is logged, never lost."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s died", task.get_name(), exc_info=error)
