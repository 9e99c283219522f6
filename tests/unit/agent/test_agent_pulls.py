"""An agent fetches the image that a kernel needs, for as long as the kernel is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.images import Puller
from backendai_jupyter.domain.wire import Phase, PullProgress
from tests.fakes import RuntimeThatPulls, answer_at_once
from tests.helpers import eventually
from tests.registry import RegistryThatMisbehaves, SmallImage
from tests.unit.agent.one_node import OneNode


@pytest.fixture
async def node(tmp_path: Path, registry: RegistryThatMisbehaves) -> AsyncIterator[OneNode]:
    """A node without images that may fetch one."""
    one = OneNode(tmp_path, RuntimeThatPulls(), answer_at_once)
    one.settings.registry_images = [registry.have(SmallImage())]
    await one.agent.start()

    async def is_offered() -> bool:
        return bool((await one.report()).pullable)

    await eventually(is_offered)
    yield one
    await one.supervisor.close()


def puller(node: OneNode) -> RuntimeThatPulls:
    assert isinstance(node.runtime, RuntimeThatPulls)
    assert isinstance(node.runtime, Puller)
    return node.runtime


async def test_a_kernel_starts_when_its_image_has_come(node: OneNode) -> None:
    await node.assign(image="tiny")
    waiting = await node.until(Phase.PULLING)
    assert (waiting.step, waiting.pull) == ("image", PullProgress())
    half = PullProgress(bytes_done=1, bytes_total=2, layers_done=0, layers_total=1)
    await eventually(lambda: puller(node).pulls)
    puller(node).tell(half)

    async def is_told() -> bool:
        (kernel,) = (await node.report()).kernels
        return kernel.pull == half

    await eventually(is_told)
    puller(node).may_end.set()
    assert (await node.until(Phase.RUNNING)).pull is None
    report = await node.report()
    assert [image.name for image in report.images] == ["tiny"]
    assert not report.pullable


async def test_nobody_waits_for_the_image_of_a_kernel_that_is_not_wanted(node: OneNode) -> None:
    await node.assign(image="tiny")
    await node.until(Phase.PULLING)
    await eventually(lambda: puller(node).pulls)
    await node.until_nothing_is_left(await node.unassign())
    assert (puller(node).pulls, puller(node).cancelled) == (1, 1)
    assert [image.name for image in (await node.report()).pullable] == ["tiny"]


async def test_a_registry_that_is_away_is_what_a_start_fails_with(
    node: OneNode, registry: RegistryThatMisbehaves
) -> None:
    registry.status = 503
    await node.assign(image="tiny")
    failed = await node.until(Phase.FAILED)
    assert failed.exit is not None
    assert (failed.exit.step, failed.exit.cause) == ("image", "registry-away")
    assert registry.host in failed.exit.message
    await node.unassign()


async def test_what_is_not_wanted_any_more_is_not_offered(node: OneNode) -> None:
    node.settings.registry_images = []
    node.agent.settings_changed()

    async def is_gone() -> bool:
        return not (await node.report()).pullable

    await eventually(is_gone)


async def test_an_image_that_cannot_be_offered_is_noted(
    node: OneNode, registry: RegistryThatMisbehaves
) -> None:
    no_kernel = SmallImage(labels={"ai.backend.kernelspec": "0"})
    bad_label = SmallImage("bad", labels={"ai.backend.resource.min.cpu": "many"})
    references = [registry.have(no_kernel, tag="2"), registry.have(bad_label, tag="3")]
    node.settings.registry_images = [*node.settings.registry_images, *references]
    node.agent.settings_changed()

    async def noted() -> bool:
        return len((await node.report()).notes) >= 3

    await eventually(noted)
    notes = " ".join((await node.report()).notes)
    assert f"{references[0]} is not offered: " in notes
    assert "its labels lack ai.backend.kernelspec=1" in notes
    assert f"{references[1]} is not offered: ai.backend.resource.min.cpu: " in notes
    assert [image.name for image in (await node.report()).pullable] == ["tiny"]
