"""A real engine fetches images: from Docker's own registry, and from one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from backendai_jupyter.agent.images import Images
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.cli.findings import Settings, State
from backendai_jupyter.cli.installation import our_kernelspecs
from backendai_jupyter.cli.machine import images
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.wire import Image, PullProgress
from backendai_jupyter.errors import LaunchFailed
from backendai_jupyter.supervisor import Supervisor
from tests.empty_engine import EmptyEngine
from tests.helpers import eventually
from tests.registry import (
    KERNEL_LABELS,
    PASSWORD,
    USER,
    DockerRegistry,
    RegistryThatMisbehaves,
    SmallImage,
)
from tests.small_disk import NEEDS_ROOT, SmallDisk


class Node:
    """The images of an agent on an engine that begins without any."""

    def __init__(self, engine: EmptyEngine, reference: str, **traits: Any) -> None:
        self.settings = BackendAIAgent(registry_images=[reference], **traits)
        self.runtime = DockerRuntime(agent_id="a", cluster_id="tests", url=engine.url)
        self.supervisor = Supervisor()
        self.heard: list[PullProgress] = []
        self.images = Images({"docker": self.runtime}, self.settings, self.supervisor)

    async def __aenter__(self) -> Node:
        await self.runtime.open()
        await self.look()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.supervisor.close()
        await self.runtime.close()
        gc.collect()  # a socket that was left open would be told of here

    async def look(self) -> None:
        await self.images.refresh()
        await self.images.look_at_registries()

    async def provide(self, name: str = "tiny", *, is_first: bool = True) -> Image:
        return await self.images.provide(name, is_first=is_first, tell=self.heard.append)


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    one = DockerRegistry(tmp_path / "registry", secured=True)
    await one.up()
    yield one
    one.kill()


def push_noise(engine: EmptyEngine, registry: DockerRegistry) -> str:
    """Put a small kernel image into a registry, and nowhere else."""
    changes = [f'LABEL {name}="{value}"' for name, value in KERNEL_LABELS.items()]
    changes.append('LABEL ai.backend.image.name="tiny"')
    noise = bytes(10240)  # the end of a tar, which is a whole one
    with contextlib.closing(engine.client()) as client:
        client.import_image_from_data(noise, "noise", "1", changes=changes)
        auth = {"username": USER, "password": PASSWORD}
        reference = registry.take(client, "noise:1", "team/noise:1", auth=auth)
        client.remove_image("noise:1")
    return reference


async def test_an_image_comes_from_dockers_own_registry(
    empty_engine: EmptyEngine, real: DockerRegistry, tmp_path: Path
) -> None:
    reference = await asyncio.to_thread(push_noise, empty_engine, real)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    login = {"url": f"http://{real.host}", "username": USER, "password_file": str(password)}
    async with Node(empty_engine, reference, registries=[login]) as node:
        assert not node.images.here
        assert node.images.pullable["tiny"].labels["ai.backend.runtime-type"] == "python"
        image = await node.provide()
        assert image.reference == reference
        assert set(node.images.here) == {"tiny"}
        assert not node.images.pullable
        password.write_text("wrong")
        await asyncio.to_thread(empty_engine.forget_images)
        await node.images.refresh()
        with pytest.raises(LaunchFailed, match=r"does not let the user 'puller' have") as caught:
            await node.provide()
        assert caught.value.cause == "not-let-in"


@pytest.mark.parametrize("kind", ["", "basic", "bearer"])
async def test_progress_is_counted_in_what_the_registry_has(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves, tmp_path: Path, kind: str
) -> None:
    registry.asks_for = kind
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    login = {"url": f"http://{registry.host}", "username": USER, "password_file": str(password)}
    image = SmallImage(layer_bytes=3_000_000)
    registry.hold()
    async with Node(empty_engine, registry.have(image), registries=[login]) as node:
        size_bytes = node.images.pullable["tiny"].size_bytes
        pulling = asyncio.create_task(node.provide())
        await eventually(lambda: node.heard and node.heard[-1].layers_total == 2)
        await eventually(lambda: len(registry.layers_asked(image)) == 2)
        registry.layers_may_end.set()
        assert (await pulling).digest == image.id
    for progress in node.heard[1:]:
        assert progress.bytes_total == size_bytes
        assert 0 <= progress.bytes_done <= size_bytes


async def test_two_who_wait_share_one_pull_and_the_last_to_leave_ends_it(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves
) -> None:
    image = SmallImage(layer_bytes=3_000_000)
    registry.hold()
    async with Node(empty_engine, registry.have(image)) as node:
        waiting = [asyncio.create_task(node.provide()) for _ in range(2)]
        await eventually(lambda: registry.held == 2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await eventually(lambda: registry.held == 0)
        registry.layers_may_end.set()
        assert (await node.provide()).digest == image.id
        assert len(registry.layers_asked(image)) == 4


@pytest.mark.parametrize(
    ("fault", "cause", "sentence"),
    [
        ("cuts_layers", "registry-away", "The Docker Engine could not fetch"),
        ("damages_layers", "pull-failed", "The Docker Engine could not fetch"),
    ],
)
async def test_what_is_wrong_with_a_pull_is_said(
    empty_engine: EmptyEngine,
    registry: RegistryThatMisbehaves,
    fault: str,
    cause: str,
    sentence: str,
) -> None:
    setattr(registry, fault, True)
    async with Node(empty_engine, registry.have(SmallImage())) as node:
        with pytest.raises(LaunchFailed, match=sentence) as caught:
            await node.provide()
        assert caught.value.cause == cause, str(caught.value)
        setattr(registry, fault, False)
        assert (await node.provide()).name == "tiny"


@NEEDS_ROOT
async def test_a_full_disk_is_said_and_is_nothing_that_stays(
    registry: RegistryThatMisbehaves, short_tmp_path: Path
) -> None:
    large = SmallImage(layer_bytes=20 << 20, layers=1)
    with SmallDisk.mounted_at(short_tmp_path / "disk", size_mb=32) as disk:
        engine = EmptyEngine(disk.path / "data")
        await asyncio.to_thread(engine.start)
        try:
            async with Node(engine, registry.have(large)) as node:
                with pytest.raises(LaunchFailed, match=r"There is no space for .*tiny:1") as caught:
                    await node.provide()
                assert caught.value.cause == "no-space"
                registry.have(SmallImage())
                assert (await node.provide()).name == "tiny"
        finally:
            await asyncio.to_thread(engine.stop)


async def test_a_newer_image_is_fetched_where_digests_count(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves
) -> None:
    old, new = SmallImage(), SmallImage()
    async with Node(empty_engine, registry.have(old)) as node:
        await node.provide()
        registry.have(new)
        await node.look()
        assert (await node.provide()).digest == old.id
        node.settings.auto_pull = "digest"
        assert set(node.images.pullable) == {"tiny"}
        assert (await node.provide(is_first=False)).digest == old.id
        assert (await node.provide()).digest == new.id
        node.settings.auto_pull = "none"
        assert (await node.provide()).digest == new.id
        assert not node.images.pullable


async def test_an_image_that_comes_or_goes_is_hinted(empty_engine: EmptyEngine) -> None:
    runtime = DockerRuntime(agent_id="a", cluster_id="tests", url=empty_engine.url)
    await runtime.open()
    changes = runtime.image_changes()
    labels = [f'LABEL {name}="{value}"' for name, value in KERNEL_LABELS.items()]
    labels.append('LABEL ai.backend.image.name="new"')

    def bring() -> None:
        with contextlib.closing(empty_engine.client()) as client:
            client.import_image_from_data(bytes(10240), "new", "1", changes=labels)

    try:
        await asyncio.to_thread(bring)
        async with asyncio.timeout(10):
            while "new" not in {image.name for image in await runtime.images()}:
                await anext(changes)
        await asyncio.to_thread(empty_engine.forget_images)
        async with asyncio.timeout(10):
            while await runtime.images():
                await anext(changes)
    finally:
        await changes.aclose()  # type: ignore[attr-defined]
        await runtime.close()


async def test_the_doctor_counts_what_may_be_fetched_and_says_what_may_not(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves
) -> None:
    config = Config()
    config.BackendAIAgent.docker_url = empty_engine.url
    names = sorted(name.removeprefix("backendai-") for name in our_kernelspecs())
    references = [registry.have(SmallImage(name), name=name) for name in names]
    config.BackendAIAgent.registry_images = references
    settings = Settings.of(config)
    found = await images(settings)
    assert (found.state, found.message) == (State.OK, ", ".join(names))
    registry.status = 503
    found = await images(settings)
    assert found.state is State.WARN
    assert registry.host in found.message
