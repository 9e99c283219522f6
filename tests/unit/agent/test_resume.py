"""An agent goes on where one that was killed had stopped."""

from __future__ import annotations

from pathlib import Path

from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.runtime.base import ContainerState
from backendai_jupyter.domain.wire import Phase
from tests.fakes import PYTHON, RuntimeInMemory, answer_at_once
from tests.unit.agent.test_agent import OneNode


async def test_a_program_that_ended_with_the_agent_that_was_starting_it_is_started_again(
    tmp_path: Path,
) -> None:
    runtime = RuntimeInMemory()
    runtime.containers["k"] = ContainerState("k", 2, "half started", 137)
    node = OneNode(tmp_path, runtime, answer_at_once)
    under_way = Checkpoint(kernel_id="k", generation=2, image=PYTHON, key="secret")
    node.node.checkpoints.write(under_way)
    await node.assign(generation=2)
    try:
        await node.agent.start()
        await node.until(Phase.RUNNING, generation=2)
    finally:
        await node.supervisor.close()
    assert runtime.containers["k"].container_id != "half started"
