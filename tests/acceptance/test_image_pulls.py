"""A start that needs an image from a registry says how far it is, and can be given up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.channels import OURS, Channels
from tests.acceptance.events import Events
from tests.acceptance.test_operator import jupyter_backendai
from tests.empty_engine import EmptyEngine
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.registry import PASSWORD, USER, DockerRegistry, RegistryThatMisbehaves, SmallImage
from tests.server import RunningServer

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
TINY = "backendai-tiny"


@asynccontextmanager
async def running(
    root: Path, engine: EmptyEngine, reference: str, *, more: str = "", **traits: object
) -> AsyncIterator[RunningServer]:
    """A server whose agent's engine has no image, and may fetch one."""
    settings = {
        "runtime": "docker",
        "docker_url": engine.url,
        "docker_network": "none",
        "registry_images": [reference],
        **traits,
    }
    config = "".join(f"c.BackendAIAgent.{name} = {value!r}\n" for name, value in settings.items())
    async with RunningServer(root, config=config + more) as server:
        yield server


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    one = DockerRegistry(tmp_path / "registry")
    await one.up()
    yield one
    one.kill()


@pytest.mark.timeout(600)  # what is pushed and fetched is a gigabyte
async def test_a_kernel_starts_from_an_image_that_only_a_registry_has(
    engine: PrivateEngine, empty_engine: EmptyEngine, real: DockerRegistry, short_tmp_path: Path
) -> None:
    def push() -> str:
        with contextlib.closing(engine.client()) as client:
            return real.take(client, "backendai-python:latest", "team/python:1")

    reference = await asyncio.to_thread(push)
    async with (
        running(short_tmp_path, empty_engine, reference) as server,
        Events.follow(server) as events,
    ):
        image = await eventually(lambda: only_image(server))
        assert (image["agents"], len(image["pullable_by"])) == ([], 1)
        began_at = time.monotonic()
        answer = await server.post("api/kernels", json={"name": OURS}, timeout=300)
        assert answer.status_code == 201, (answer.text, server.log)
        kernel_id = answer.json()["id"]
        log.info("started after %.1f s", time.monotonic() - began_at)
        seen = [e["pull"] for e in events.sessions if e["status"] == "PULLING" and e["pull"]]
        fetched = [pull["bytes_done"] for pull in seen]
        assert fetched == sorted(fetched)
        assert len(set(fetched)) > 2
        assert {pull["bytes_total"] for pull in seen[1:]} == {image["size_bytes"]}
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print(6 * 7)") == "42\n"
        (session,) = (await server.get("backendai/v1/sessions")).json()
        history = (await server.get(f"backendai/v1/sessions/{session['id']}")).json()["history"]
        assert "PULLING" in [step["after"] for step in history]
        image = await only_image(server)
        assert (len(image["agents"]), image["pullable_by"]) == (1, [])
        listed = await jupyter_backendai("image", "ls", "--json", env=server.env)
        assert json.loads(listed.out)[0]["reference"] == reference


async def test_it_shows_its_progress_and_is_given_up_in_the_middle(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves, short_tmp_path: Path
) -> None:
    image = SmallImage(layer_bytes=3_000_000)
    registry.hold()
    async with (
        running(short_tmp_path, empty_engine, registry.have(image)) as server,
        Events.follow(server) as events,
    ):
        await offered(server)
        starting = asyncio.create_task(server.post("api/kernels", json={"name": TINY}))
        event = await events.until(lambda d: d["pull"] and d["pull"]["layers_total"] == 2)
        assert event.data["status"] == "PULLING"
        assert event.data["step"] == "image"
        assert event.data["reason"].startswith("Fetching its image: ")
        assert event.data["reason"].endswith(" of 5.7 MiB, 0 of 2 layers unpacked.")
        await eventually(lambda: registry.held == 2)
        detail = await one_session(server)
        assert detail["kernels"][0]["pull"]["layers_total"] == 2
        asked_at = time.monotonic()
        await server.delete(f"backendai/v1/sessions/{detail['id']}")
        answer = await starting
        log.info("answered after %.3f s", time.monotonic() - asked_at)
        assert answer.status_code == 409
        assert answer.json()["message"] == "Its end was asked for while it started."
        await eventually(lambda: registry.held == 0)
        await nothing_is_left(server)
        assert TINY in await kernelspecs(server)


async def test_two_starts_share_one_pull(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves, short_tmp_path: Path
) -> None:
    image = SmallImage(layer_bytes=1_000_000)
    registry.hold()
    async with running(short_tmp_path, empty_engine, registry.have(image)) as server:
        await offered(server)
        starts = [
            asyncio.create_task(server.post("api/kernels", json={"name": TINY})) for _ in range(2)
        ]

        async def both_wait() -> bool:
            found = (await server.get("backendai/v1/sessions?status=PULLING")).json()
            return len(found) == 2

        await eventually(both_wait)
        await eventually(lambda: registry.held == 2)
        await give_up(starts.pop())
        registry.layers_may_end.set()
        # The image holds no program, and that is what the start fails with in the end.
        answer = await starts.pop()
        assert (answer.status_code, answer.json()["step"]) == (500, "answer")
        assert len(registry.layers_asked(image)) == 2
        await nothing_is_left(server)


@pytest.fixture
def password(registry: RegistryThatMisbehaves, short_tmp_path: Path) -> Path:
    """The file with the password of a registry that asks for one."""
    registry.asks_for = "bearer"
    file = short_tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(PASSWORD)
    return file


def login(registry: RegistryThatMisbehaves, password: Path) -> list[dict[str, str]]:
    url = f"http://{registry.host}"
    return [{"url": url, "username": USER, "password_file": str(password)}]


async def test_a_password_that_is_wrong_is_noted_of_the_agent(
    empty_engine: EmptyEngine,
    registry: RegistryThatMisbehaves,
    password: Path,
    short_tmp_path: Path,
) -> None:
    await asyncio.to_thread(password.write_text, "wrong")
    reference, known = registry.have(SmallImage()), login(registry, password)
    sentence = f"The registry {registry.host} does not let the user 'puller' have {reference}"
    async with running(short_tmp_path, empty_engine, reference, registries=known) as server:

        async def noted() -> bool:
            (agent,) = (await server.get("backendai/v1/agents")).json()
            return any(sentence in note for note in agent["notes"])

        await eventually(noted)
        assert TINY not in await kernelspecs(server)


async def test_a_password_that_is_wrong_by_now_is_what_a_start_fails_with(
    empty_engine: EmptyEngine,
    registry: RegistryThatMisbehaves,
    password: Path,
    short_tmp_path: Path,
) -> None:
    reference, known = registry.have(SmallImage()), login(registry, password)
    sentence = f"The registry {registry.host} does not let the user 'puller' have {reference}"
    async with running(short_tmp_path, empty_engine, reference, registries=known) as server:
        await offered(server)
        await asyncio.to_thread(password.write_text, "wrong")
        answer = await server.post("api/kernels", json={"name": TINY})
        assert answer.status_code == 500
        body = answer.json()
        assert sentence in body["message"]
        named = {"code": "launch-failed", "step": "image", "cause": "not-let-in"}
        assert named.items() <= body.items()
        await nothing_is_left(server)
        assert PASSWORD not in server.log


@pytest.mark.parametrize("away", ["stopped", "gone"])
async def test_a_registry_that_cannot_be_asked_any_more_is_named(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves, short_tmp_path: Path, away: str
) -> None:
    async with running(short_tmp_path, empty_engine, registry.have(SmallImage())) as server:
        await offered(server)
        cause = "registry-away"
        if away == "stopped":
            registry.status = 503
        else:
            registry.manifests.clear()
            cause = "no-such-image"
        answer = await server.post("api/kernels", json={"name": TINY})
        assert (answer.status_code, answer.json()["cause"]) == (500, cause)
        assert registry.host in answer.json()["message"]
        await nothing_is_left(server)


async def test_a_pull_that_takes_too_long_is_given_up(
    empty_engine: EmptyEngine, registry: RegistryThatMisbehaves, short_tmp_path: Path
) -> None:
    registry.hold()
    limits = "c.BackendAI.start_timeouts = {'PULLING': 3}\n"
    reference = registry.have(SmallImage())
    async with running(short_tmp_path, empty_engine, reference, more=limits) as server:
        await offered(server)
        answer = await server.post("api/kernels", json={"name": TINY})
        sentence = "Gave up after 3 s in PULLING (step image): Fetching its image: "
        assert (answer.status_code, answer.json()["code"]) == (504, "timed-out")
        assert answer.json()["message"].startswith(sentence)
        await eventually(lambda: registry.held == 0)
        await nothing_is_left(server)


async def only_image(server: RunningServer) -> dict[str, Any]:
    found: list[dict[str, Any]] = (await server.get("backendai/v1/images")).json()
    return found[0] if found else {}


async def kernelspecs(server: RunningServer) -> set[str]:
    return set((await server.get("api/kernelspecs")).json()["kernelspecs"])


async def offered(server: RunningServer, name: str = TINY) -> None:
    async def is_there() -> bool:
        return name in await kernelspecs(server)

    await eventually(is_there)


async def one_session(server: RunningServer) -> dict[str, Any]:
    (session,) = (await server.get("backendai/v1/sessions")).json()
    found: dict[str, Any] = (await server.get(f"backendai/v1/sessions/{session['id']}")).json()
    return found


async def give_up(request: asyncio.Task[httpx.Response]) -> None:
    request.cancel()
    await asyncio.wait([request])


async def nothing_is_left(server: RunningServer) -> None:
    async def over() -> bool:
        agents = (await server.get("backendai/v1/agents")).json()
        return all(float(amount) == 0 for one in agents for amount in one["used"].values())

    await eventually(over, within_s=20)
    ended = {s["status"] for s in (await server.get("backendai/v1/sessions")).json()}
    assert ended <= {"TERMINATED", "CANCELLED", "ERROR"}
    assert (await server.get("api/kernels")).json() == []
