"""A registry is asked what an image is: labels, layers, and sentences for what goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backendai_jupyter.agent.registry import Description, RegistryClient
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.config.registries import registry_of
from backendai_jupyter.domain.references import Reference
from backendai_jupyter.errors import (
    InvalidInput,
    NoSuchImage,
    NotLetIn,
    PullFailed,
    RegistryAway,
    WrongPlatform,
)
from tests.registry import PASSWORD, USER, RegistryThatMisbehaves, SmallImage, digest_of


async def describe(text: str, settings: BackendAIAgent | None = None) -> Description:
    reference = Reference.parse(text, field="f")
    known = (settings or BackendAIAgent()).known_registries()

    def ask() -> Description:
        with RegistryClient(registry_of(reference, known), reference) as client:
            found = client.describe()
            assert client.digest() == found.digest
            return found

    return await asyncio.to_thread(ask)


def logged_in(
    registry: RegistryThatMisbehaves, directory: Path, password: str = PASSWORD
) -> BackendAIAgent:
    file = directory / "password"
    file.touch(mode=0o600)
    file.write_text(f"{password}\n")
    one = {"url": f"http://{registry.host}", "username": USER, "password_file": str(file)}
    return BackendAIAgent(registries=[one])


async def test_labels_and_layers_are_known_before_anything_is_fetched(
    registry: RegistryThatMisbehaves,
) -> None:
    image = SmallImage(labels={"x": "y"})
    found = await describe(registry.have(image))
    assert found.labels["x"] == "y"
    assert found.labels["ai.backend.image.name"] == "tiny"
    assert found.digests == {digest_of(image.manifest), image.id}
    sizes = sorted(len(blob) for digest, blob in image.blobs.items() if digest != image.id)
    assert sorted(found.layers.values()) == sizes
    assert found.size_bytes == sum(sizes)
    assert not registry.layers_asked(image)


async def test_of_an_image_for_many_platforms_this_ones_is_read(
    registry: RegistryThatMisbehaves,
) -> None:
    ours, other = SmallImage("ours"), SmallImage("other", architecture="s390x")
    found = await describe(registry.have_index([other, ours]))
    assert found.labels["ai.backend.image.name"] == "ours"
    assert ours.id in found.digests


@pytest.mark.parametrize("is_index", [True, False])
async def test_an_image_for_other_machines_is_refused(
    registry: RegistryThatMisbehaves, is_index: bool
) -> None:
    other = SmallImage(architecture="s390x")
    reference = registry.have_index([other]) if is_index else registry.have(other)
    with pytest.raises(WrongPlatform, match=r"team/tiny:1 is made for linux/s390x, and this"):
        await describe(reference)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_a_log_in_is_given_where_it_is_asked_for(
    registry: RegistryThatMisbehaves, tmp_path: Path, kind: str
) -> None:
    registry.asks_for = kind
    reference = registry.have(SmallImage())
    found = await describe(reference, logged_in(registry, tmp_path))
    assert found.labels["ai.backend.image.name"] == "tiny"
    with pytest.raises(NotLetIn, match=r"does not let the user 'puller' have .*team/tiny:1; see"):
        await describe(reference, logged_in(registry, tmp_path, "wrong"))
    with pytest.raises(NotLetIn, match=r"does not let those who give no name have"):
        await describe(reference)


async def test_an_image_that_is_not_there_is_named(registry: RegistryThatMisbehaves) -> None:
    with pytest.raises(NoSuchImage, match=rf"{registry.host} has no image .*/a/b:1\."):
        await describe(f"{registry.host}/a/b:1")


async def test_a_registry_that_is_away_is_named() -> None:
    with pytest.raises(RegistryAway, match=r"127\.0\.0\.1:9 cannot be asked for .*refused\.$"):
        await describe("127.0.0.1:9/a:1")


async def test_a_registry_that_breaks_is_away(registry: RegistryThatMisbehaves) -> None:
    reference = registry.have(SmallImage())
    registry.status = 503
    with pytest.raises(RegistryAway, match=r"it answered 503\."):
        await describe(reference)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"no json", b'{"config": {}, "layers": [1]}'])
async def test_what_cannot_be_read_is_said(
    registry: RegistryThatMisbehaves, content: bytes
) -> None:
    image = SmallImage()
    image.manifest = content
    with pytest.raises(PullFailed):
        await describe(registry.have(image))


async def test_a_configuration_that_is_not_what_the_manifest_names_is_refused(
    registry: RegistryThatMisbehaves,
) -> None:
    image = SmallImage()
    image.blobs[image.id] = b'{"config": {"Labels": {}}}'
    with pytest.raises(PullFailed, match="is not what sha256:"):
        await describe(registry.have(image))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"url": "r.example"}, r"\[0\]\.url: write https://host"),
        ({"url": "https://me:pw@r.example"}, r"\[0\]\.url: may hold no password"),
        ({"url": "https://r.example", "user": "x"}, r"\[0\]\.user: is unknown"),
        ({"url": "https://r.example", "username": "x"}, r"\[0\]: username and password_file go"),
        ({"url": 1}, r"\[0\]\.url: 1 is no text"),
    ],
)
def test_a_setting_that_is_wrong_is_named(entry: dict[str, object], problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        BackendAIAgent(registries=[entry])


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(mode=0o644)
    one = {"url": "https://r.example", "username": "x", "password_file": str(file)}
    (registry,) = BackendAIAgent(registries=[one]).known_registries().values()
    with pytest.raises(InvalidInput, match="others may read"):
        registry.login()
    file.chmod(0o600)
    file.write_text("pw\n")
    assert "pw" not in repr(registry.login())
