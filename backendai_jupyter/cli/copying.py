"""Copy bytes on a thread such that an interrupted command stops at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import BinaryIO, TypeVar

T = TypeVar("T")

BLOCK_BYTES = 1 << 20


class Interrupted(Exception):
    """The command that wanted it has ended."""


async def on_thread(work: Callable[[Callable[[int], None]], T], moved: Callable[[int], None]) -> T:
    """Run blocking work that reports its progress; cancelled, it ends with its next report."""
    cancelled = threading.Event()

    def report(count: int) -> None:
        if cancelled.is_set():
            raise Interrupted
        moved(count)

    try:
        return await asyncio.to_thread(work, report)
    finally:
        cancelled.set()


def copy(
    read: Callable[[int], bytes],
    target: BinaryIO,
    report: Callable[[int], None],
    *,
    done: int = 0,
) -> int:
    """Copy until there is no more; return how much is there, with the ``done`` before."""
    while block := read(BLOCK_BYTES):
        target.write(block)
        done += len(block)
        report(done)
    return done
