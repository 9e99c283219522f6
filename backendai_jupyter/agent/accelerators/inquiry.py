"""Ask a driver that may hang: on a thread that nobody has to wait for, not even at the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from backendai_jupyter.errors import BackendError, TimedOut, Unavailable

T = TypeVar("T")


class Inquiry(Generic[T]):
    """One question, asked again with each ``answer``, but never while an answer is owed."""

    def __init__(self, ask: Callable[[], T], *, what: str) -> None:
        self._ask = ask
        self._what = what
        self._owed: asyncio.Future[T] | None = None

    async def answer(self, *, within_s: float) -> T:
        """Raise ``TimedOut`` if none comes in time, at once where one is owed for longer.

        Whatever else breaks is ``Unavailable``.
        """
        if self._owed is not None and not self._owed.done():
            raise TimedOut(f"{self._what} does not answer.")
        self._owed = asyncio.get_running_loop().create_future()
        self._owed.add_done_callback(_read)
        # A pool's thread would keep this process from ending.
        threading.Thread(target=self._work, args=(self._owed,), name="inquiry", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(self._owed)
        except TimeoutError:
            raise TimedOut(f"{self._what} did not answer within {within_s:g} s.") from None

    def _work(self, owed: asyncio.Future[T]) -> None:
        try:
            found = self._ask()
        except BackendError as error:
            _tell(owed, owed.set_exception, error)
        except Exception as error:  # noqa: BLE001 - a driver's trouble is not this process's
            broke = Unavailable(f"{self._what} broke: {error!r}.")
            broke.__cause__ = error
            _tell(owed, owed.set_exception, broke)
        else:
            _tell(owed, owed.set_result, found)


def _tell(owed: asyncio.Future[T], say: Callable[..., None], what: object) -> None:
    def told() -> None:
        if not owed.done():
            say(what)

    with contextlib.suppress(RuntimeError):  # the loop ended while the driver hung
        owed.get_loop().call_soon_threadsafe(told)


def _read(owed: asyncio.Future[T]) -> None:
    """Take note of a failure that came after nobody waited any more."""
    if not owed.cancelled():
        owed.exception()
