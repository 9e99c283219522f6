"""Which image a kernel is made of where there are several, here and in a registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from backendai_jupyter.agent.images import Images
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import EngineAway, LaunchFailed
from backendai_jupyter.supervisor import Supervisor
from tests.fakes import PYTHON, RuntimeInMemory, RuntimeThatPulls
from tests.registry import RegistryThatMisbehaves, SmallImage

SANDBOX = PYTHON


class RuntimeThatComesAndGoes(RuntimeThatPulls):
    is_away = False

    async def images(self) -> tuple[Image, ...]:
        if self.is_away:
            raise EngineAway("nobody listens")
        return await super().images()


class Shelf:
    """Images of two runtimes: the first may fetch, the second is always at hand."""

    def __init__(self, reference: str) -> None:
        self.docker, self.sandbox = RuntimeThatComesAndGoes(), RuntimeInMemory()
        self.settings = BackendAIAgent(registry_images=[reference])
        self.supervisor = Supervisor()
        runtimes = {"docker": self.docker, "memory": self.sandbox}
        self.images = Images(runtimes, self.settings, self.supervisor)

    async def look(self, *images: Image) -> None:
        self.docker.here = images
        await self.images.refresh()
        await self.images.look_at_registries()

    async def chosen(self, *, is_first: bool = True, last_runtime: str = "") -> Image:
        return await self.images.provide(
            "python", is_first=is_first, tell=lambda _: None, last_runtime=last_runtime
        )


@pytest.fixture
def remote() -> SmallImage:
    return SmallImage("python")


@pytest.fixture
async def shelf(registry: RegistryThatMisbehaves, remote: SmallImage) -> AsyncIterator[Shelf]:
    one = Shelf(registry.have(remote))
    yield one
    await one.supervisor.close()


def local(digest: str) -> Image:
    return Image(name="python", reference=f"local:{digest}", runtime="docker", digest=digest)


async def test_a_container_comes_before_a_sandbox_be_it_that_its_image_is_fetched(
    shelf: Shelf,
) -> None:
    shelf.docker.may_end.set()
    await shelf.look()
    assert not shelf.images.here
    assert set(shelf.images.pullable) == {"python"}
    assert (await shelf.chosen()).runtime == "docker"


async def test_by_tag_whatever_the_node_has_is_taken(shelf: Shelf) -> None:
    old = local("sha256:old")
    await shelf.look(old)
    assert shelf.images.here == {"python": old}
    assert await shelf.chosen() == old
    assert not shelf.docker.pulls


async def test_the_one_that_the_registry_has_comes_before_a_newer_one(
    shelf: Shelf, remote: SmallImage
) -> None:
    newer, same = local("sha256:newer"), local(remote.id)
    await shelf.look(newer, same)
    for shelf.settings.auto_pull in ("tag", "digest"):
        assert await shelf.chosen() == same
    shelf.settings.auto_pull = "none"
    assert await shelf.chosen() == newer


async def test_by_digest_an_old_one_is_taken_for_a_restart_only(shelf: Shelf) -> None:
    shelf.settings.auto_pull = "digest"
    old = local("sha256:old")
    await shelf.look(old)
    assert set(shelf.images.pullable) == {"python"}
    assert await shelf.chosen(is_first=False) == old
    shelf.docker.may_end.set()
    with pytest.raises(LaunchFailed, match="was fetched, and is no image 'python' any more"):
        await shelf.chosen()  # this runtime does not say that it is the same
    assert shelf.docker.pulls == 1


async def test_without_registries_the_sandbox_is_there(shelf: Shelf) -> None:
    shelf.settings.auto_pull = "none"
    await shelf.look()
    assert shelf.images.here == {"python": SANDBOX}
    assert await shelf.chosen() == SANDBOX


async def test_who_is_started_again_changes_to_no_other_runtime_while_its_own_is_away(
    shelf: Shelf,
) -> None:
    shelf.settings.auto_pull = "none"
    shelf.docker.is_away = True
    here = local("sha256:here")
    await shelf.look(here)
    assert await shelf.chosen() == SANDBOX
    again = partial(shelf.chosen, is_first=False)
    assert await again(last_runtime="memory") == SANDBOX
    with pytest.raises(LaunchFailed, match="nobody listens") as failed:
        await again(last_runtime="docker")
    assert failed.value.cause == EngineAway.code
    shelf.docker.is_away = False  # which nobody has said yet
    assert await again(last_runtime="docker") == here


async def test_an_agent_that_has_just_begun_asks_registries_before_it_says_no(
    shelf: Shelf,
) -> None:
    shelf.docker.may_end.set()
    await shelf.images.refresh()
    choosing = asyncio.create_task(shelf.chosen())
    await shelf.images.look_at_registries()
    assert (await choosing).runtime == "docker"


async def test_what_is_nowhere_is_said(shelf: Shelf) -> None:
    await shelf.look()
    with pytest.raises(LaunchFailed, match="This agent has no image 'r'"):
        await shelf.images.provide("r", is_first=True, tell=lambda _: None)


async def test_what_a_registry_had_is_offered_while_it_is_away_and_not_when_it_says_no(
    shelf: Shelf, registry: RegistryThatMisbehaves
) -> None:
    await shelf.look()
    registry.status = 503
    await shelf.look()
    assert set(shelf.images.pullable) == {"python"}
    assert "it answered 503" in shelf.images.notes()[0]
    registry.status = 404
    await shelf.look()
    assert not shelf.images.pullable
    assert "is not offered: " in shelf.images.notes()[0]
    registry.status = 0
    await shelf.look()
    assert set(shelf.images.pullable) == {"python"}
    assert not shelf.images.notes()
