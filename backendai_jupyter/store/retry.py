"""Do again what the database undid for the sake of another transaction."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from backendai_jupyter.errors import GaveWay

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES_S = (0.01, 0.03, 0.1, 0.3)


def retried(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a method that is one transaction again if it gave way: a few times, then it is told."""

    @functools.wraps(method)
    async def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause_s in _PAUSES_S:
            try:
                return await method(*args, **kwargs)
            except GaveWay:
                # Of two that met, neither may come back at the same moment.
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 - no secret
        return await method(*args, **kwargs)

    return tried
