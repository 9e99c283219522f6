"""What tests of every kind share."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(probe: Callable[[], Awaitable[T]], *, within_s: float = ...) -> T: ...


@overload
async def eventually(probe: Callable[[], T], *, within_s: float = ...) -> T: ...


async def eventually(probe: Callable[[], object], *, within_s: float = 30.0) -> object:
    """Call ``probe`` until its result is truthy and return it; fail after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        result = probe()
        value = await result if inspect.isawaitable(result) else result
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {within_s} s"
        await asyncio.sleep(0.01)
