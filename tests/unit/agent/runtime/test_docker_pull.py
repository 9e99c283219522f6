"""What an engine says while it fetches an image, in numbers and in words."""

from __future__ import annotations

from typing import Any

import pytest

from backendai_jupyter.agent.registry import Description
from backendai_jupyter.agent.runtime.docker_pull import Layers, explain
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.references import Reference
from backendai_jupyter.domain.wire import PullProgress
from backendai_jupyter.errors import (
    NoSpace,
    NoSuchImage,
    NotLetIn,
    PullFailed,
    RegistryAway,
    WrongPlatform,
)

TEAM = Reference("r.example", "team/x", "1")
WANTED = Description(TEAM, "sha256:1", frozenset({"sha256:1"}), {}, {"a": 100, "b": 50})
REGISTRY = Registry("r.example", "https://r.example", username="puller")


def test_layers_are_counted_as_the_engine_tells_of_them() -> None:
    layers = Layers(WANTED.layers)
    messages: list[dict[str, Any]] = [
        {"status": "Pulling from team/x", "id": "1"},
        {"status": "Pulling fs layer", "id": "a"},
        {"status": "Already exists", "id": "b"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 30, "total": 100}},
    ]
    for message in messages:
        layers.take(message)
    expected = PullProgress(bytes_done=80, bytes_total=150, layers_done=1, layers_total=2)
    assert layers.progress() == expected
    layers.take({"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 9}})
    assert (layers.progress().bytes_done, layers.progress().layers_done) == (150, 1)
    layers.take({"status": "Pull complete", "id": "a"})
    assert layers.progress().layers_done == 2


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", NoSpace),
        ("no matching manifest for linux/amd64 in the manifest list entries", WrongPlatform),
        ("manifest for r.example/team/x:1 not found: manifest unknown: unknown", NoSuchImage),
        ("unauthorized: authentication required", NotLetIn),
        ("pull access denied for team/x, repository does not exist or may require", NotLetIn),
        ("Get https://r.example/v2/: no basic auth credentials", NotLetIn),
        ('Get "https://r.example/v2/": dial tcp: lookup r.example: no such host', RegistryAway),
        ("Get https://r.example/v2/: net/http: TLS handshake timeout", RegistryAway),
        ("x509: certificate signed by unknown authority", RegistryAway),
        ("unexpected EOF", RegistryAway),
        ("filesystem layer verification failed for digest sha256:1", PullFailed),
    ],
)
def test_what_an_engine_complains_of_has_a_kind_and_a_sentence(
    said: str, kind: type[PullFailed]
) -> None:
    error = explain(said, WANTED, REGISTRY)
    assert type(error) is kind
    assert str(TEAM) in str(error)
    assert str(error).endswith(".")
