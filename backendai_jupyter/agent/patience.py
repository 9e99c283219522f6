"""Start a program again although its engine is ending, or away: it may be back soon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from backendai_jupyter.agent.launch import Launch, Tools, clear, until_abandoned
from backendai_jupyter.domain.wire import ExitReason
from backendai_jupyter.errors import EngineAway, LaunchFailed, RuntimeFailed
from backendai_jupyter.supervisor import race

_PASSING = {EngineAway.code, RuntimeFailed.code, ExitReason.SIGNALLED}  # perhaps
_TRIES, _TRY_AGAIN_S = 5, 2.0  # while an engine ends, in at most 15 s, or starts

log = logging.getLogger(__name__)


async def patiently(attempt: Callable[[], Awaitable[None]], launch: Launch, tools: Tools) -> None:
    """Have ``attempt`` start the program, more than once where it was up here before.

    A first start may happen on another node, as may the next attempt of a batch, which has no
    channels to keep.  A restart cannot, and the engine whose end has ended the last program may
    not be back yet, or still be about to go.  Raises what the last attempt has raised.
    """
    tries = _TRIES if launch.endpoint is not None else 0
    while True:
        try:
            await attempt()
        except LaunchFailed as error:
            tries -= error.cause != EngineAway.code  # for which its owner may wait, or not
            if launch.abandoned or error.cause not in _PASSING or tries <= 0:
                raise
            log.info("kernel %s: step %s is tried again: %s", launch.kernel_id, error.step, error)
            await clear(launch.kernel_id, tools)
            await race(asyncio.sleep(_TRY_AGAIN_S), until_abandoned(launch, error.step))
        else:
            return
