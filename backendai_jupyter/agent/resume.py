"""Find what an agent that was killed had started, and give it its channels again."""

from __future__ import annotations

import asyncio
import logging

from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.launch import Channels, Launch, Tools, stored_key
from backendai_jupyter.domain.wire import Assignment, Image
from backendai_jupyter.errors import RelayFailed, RuntimeFailed

log = logging.getLogger(__name__)


async def find_checkpoint(
    desired: Assignment, tools: Tools, image: Image | None
) -> Checkpoint | None:
    """Return how far the kernel had come; None if it was never begun.

    ``image`` is what is here by the name that it wants.  Without a checkpoint a program that
    runs in the right generation is taken to have answered: it may be at work, and whoever lost a
    file must not end it.
    """
    kernel_id = desired.kernel_id
    tools.networks.remember(desired)
    checkpoint = await asyncio.to_thread(tools.node.checkpoints.read, kernel_id)
    if checkpoint is not None:
        return checkpoint
    key = stored_key(tools.node, kernel_id)
    if image is None or not key:
        return None
    try:
        states = await tools.runtimes[image.runtime].list()
    except RuntimeFailed as error:
        log.warning("kernel %s: nothing is known of its container: %s", kernel_id, error)
        return None
    runs = any(
        state.kernel_id == kernel_id
        and state.generation == desired.generation
        and state.exit_code is None
        for state in states
    )
    if not runs:
        return None
    log.warning("kernel %s runs without a checkpoint; it goes on", kernel_id)
    return Checkpoint(
        kernel_id=kernel_id,
        generation=desired.generation,
        image=image,
        key=key,
        answered=True,
        signal_seq=desired.signal.seq if desired.signal else 0,
    )


async def clear_unfinished(launch: Launch, tools: Tools) -> None:
    """Remove a program that has ended before its start was finished, so that it starts anew.

    It ended because the agent that started it was killed while at it.
    """
    assert launch.image is not None
    runtime = tools.runtimes[launch.image.runtime]
    try:
        for state in await runtime.list():
            if state.kernel_id == launch.kernel_id and state.exit_code is not None:
                await runtime.stop(launch.kernel_id, grace_s=0)
    except RuntimeFailed as error:
        log.warning("kernel %s: its last program is still there: %s", launch.kernel_id, error)


async def reopen_channels(launch: Launch, tools: Tools) -> None:
    """Open the kernel's channels where they were, or elsewhere if that is taken."""
    try:
        await Channels().do(launch, tools)
    except RelayFailed as error:
        if launch.endpoint is None:
            raise
        log.error("kernel %s moves to other ports: %s", launch.kernel_id, error)
        former, launch.endpoint = launch.endpoint, None
        try:
            await Channels().do(launch, tools)
        except RelayFailed:
            launch.endpoint = former
            raise
