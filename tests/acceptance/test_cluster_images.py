"""Images come and go while a cluster runs, and every manager offers what there is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.events import Events
from tests.acceptance.test_image_pulls import TINY, give_up, kernelspecs, nothing_is_left, offered
from tests.cluster import AgentProcess, Cluster
from tests.empty_engine import EmptyEngine
from tests.helpers import eventually
from tests.registry import KERNEL_LABELS, RegistryThatMisbehaves, SmallImage
from tests.server import RunningServer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
NEW = "backendai-new"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


def bring(engine: EmptyEngine, name: str) -> None:
    """Do what an administrator does who loads an image."""
    changes = [f'LABEL {label}="{value}"' for label, value in KERNEL_LABELS.items()]
    changes.append(f'LABEL ai.backend.image.name="{name}"')
    with contextlib.closing(engine.client()) as client:
        client.import_image_from_data(bytes(10240), name, "1", changes=changes)


async def add_agent(cluster: Cluster, engine: EmptyEngine, *images: str) -> AgentProcess:
    return await cluster.add_agent(
        runtime="docker",
        docker_url=engine.url,
        docker_network="none",
        registry_images=[*images],
        heartbeat_s=1.0,
    )


async def without(server: RunningServer, name: str) -> None:
    async def is_gone() -> bool:
        return name not in await kernelspecs(server)

    await eventually(is_gone, within_s=20)


async def test_kernelspecs_appear_and_vanish_in_every_manager(
    cluster: Cluster, empty_engine: EmptyEngine
) -> None:
    agent = await add_agent(cluster, empty_engine)
    servers = [await cluster.add_server() for _ in range(2)]
    for server in servers:
        assert await kernelspecs(server) == {"backendai-python", "python3"}
    await asyncio.to_thread(bring, empty_engine, "new")
    for server in servers:
        await offered(server, NEW)
    await asyncio.to_thread(empty_engine.forget_images)
    for server in servers:
        await without(server, NEW)
        answer = await server.post("api/kernels", json={"name": NEW})
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
        assert answer.json()["message"].startswith("No agent has the image 'new'")
    await asyncio.to_thread(bring, empty_engine, "new")
    for server in servers:
        await offered(server, NEW)
    await agent.kill()
    for server in servers:
        await without(server, NEW)
        assert await kernelspecs(server) == {"backendai-python", "python3"}
    await agent.start()
    for server in servers:
        await offered(server, NEW)


async def test_an_agent_that_is_killed_while_it_fetches_goes_on_when_it_is_back(
    cluster: Cluster, empty_engine: EmptyEngine, registry: RegistryThatMisbehaves
) -> None:
    """F1: a start whose agent dies while it fetches leaves nothing behind."""
    image = SmallImage(layer_bytes=1_000_000)
    registry.hold()
    agent = await add_agent(cluster, empty_engine, registry.have(image))
    server = await cluster.add_server()
    await offered(server)
    async with Events.follow(server) as events:
        starting = asyncio.create_task(server.post("api/kernels", json={"name": TINY}))
        await events.until(lambda d: d["status"] == "PULLING")
        await eventually(lambda: registry.held == 2)
        await agent.kill()
        await eventually(lambda: registry.held == 0)
        await agent.start()
        await eventually(lambda: registry.held == 2)
        await give_up(starting)
        await eventually(lambda: registry.held == 0)
        await nothing_is_left(server)
    await offered(server)
