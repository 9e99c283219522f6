"""A restart outlasts the engine whose end has ended the last program."""

from __future__ import annotations

import signal

import pytest

from backendai_jupyter.agent import patience
from backendai_jupyter.domain.wire import (
    Phase,
)
from backendai_jupyter.errors import BackendError, EngineAway, RuntimeFailed
from tests.helpers import eventually
from tests.misbehaviour import RuntimeWhoseEngineEnds
from tests.unit.agent.one_node import OneNode, Start

AWAY = EngineAway("nobody listens")
REFUSED = RuntimeFailed("the engine is about to end")


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> RuntimeWhoseEngineEnds:
    """An engine that is asked again soon."""
    monkeypatch.setattr(patience, "_TRY_AGAIN_S", 0.001)
    return RuntimeWhoseEngineEnds()


@pytest.fixture
async def restarting(start: Start, runtime: RuntimeWhoseEngineEnds) -> OneNode:
    """A node with a kernel that has run once on that engine."""
    node = await start(runtime, runtime.ask)
    await node.assign()
    await node.until(Phase.RUNNING)
    (node.node.home_dir("k") / "kept").touch()
    return node


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([AWAY] * 20, id="away"),
        pytest.param([REFUSED, signal.SIGTERM, AWAY, AWAY], id="about to end"),
        pytest.param([signal.SIGKILL] * 4, id="kills what it starts"),
    ],
)
async def test_a_restart_waits_for_an_engine_that_ends_and_comes_back(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds, failures: list[BackendError | int]
) -> None:
    endpoint = dict(restarting.relay.channels)
    runtime.failures = [*failures]
    await restarting.assign(generation=2)
    await restarting.until(Phase.RUNNING, generation=2)
    assert runtime.failures == []
    assert restarting.relay.channels == endpoint
    assert (restarting.node.home_dir("k") / "kept").exists()


@pytest.mark.parametrize("silences", [1, 4], ids=["back", "away for longer"])
async def test_a_restart_waits_for_an_engine_that_has_not_said_which_images_it_has(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds, silences: int
) -> None:
    runtime.silences = [AWAY] * silences
    restarting.agent.look_for_images()
    await eventually(lambda: len(runtime.silences) < silences)
    await restarting.assign(generation=2)
    await restarting.until(Phase.RUNNING, generation=2)
    assert runtime.silences == []


async def test_a_first_start_says_that_nobody_knows_which_images_there_are(
    start: Start, runtime: RuntimeWhoseEngineEnds
) -> None:
    """And not that there is none: it may be there again when somebody tries."""
    node = await start(runtime)
    runtime.silences = [AWAY] * 1_000_000
    node.agent.look_for_images()
    await eventually(lambda: len(runtime.silences) < 1_000_000)
    await node.assign()
    kernel = await node.until(Phase.FAILED)
    assert kernel.exit is not None
    assert (kernel.exit.cause, "nobody listens" in kernel.exit.message) == ("engine-away", True)


async def test_a_restart_that_is_refused_every_time_fails(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds
) -> None:
    runtime.failures = [REFUSED] * 20
    await restarting.assign(generation=2)
    kernel = await restarting.until(Phase.FAILED, generation=2)
    assert kernel.exit is not None
    assert "about to end" in kernel.exit.message
    assert not restarting.relay.channels
    await restarting.until_nothing_is_left(await restarting.unassign())


@pytest.mark.parametrize("generation", [1, 2], ids=["at all", "here"])
async def test_a_first_start_does_not_wait_for_an_engine(
    start: Start, runtime: RuntimeWhoseEngineEnds, generation: int
) -> None:
    """It may happen on another node; a batch that is tried again comes with a later generation."""
    node = await start(runtime)
    runtime.failures = [AWAY]
    await node.assign(generation=generation)
    kernel = await node.until(Phase.FAILED, generation=generation)
    assert kernel.exit is not None
    assert kernel.exit.cause == "engine-away"


async def test_an_end_while_a_restart_waits_for_the_engine_is_obeyed(
    restarting: OneNode, runtime: RuntimeWhoseEngineEnds
) -> None:
    runtime.failures = [AWAY] * 1_000_000
    await restarting.assign(generation=2)
    await eventually(lambda: len(runtime.failures) < 999_990)
    await restarting.until_nothing_is_left(await restarting.unassign())
