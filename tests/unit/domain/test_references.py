"""What an image is called, in the parts that a registry knows."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.references import Reference
from backendai_jupyter.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "listed"),
    [
        ("python", "docker.io", "library/python", "latest", "python:latest"),
        ("me/python:3", "docker.io", "me/python", "3", "me/python:3"),
        ("r.example/a/b:1.2-x", "r.example", "a/b", "1.2-x", "r.example/a/b:1.2-x"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000", "a", "latest", "127.0.0.1:5000/a:latest"),
        ("localhost/a:1", "localhost", "a", "1", "localhost/a:1"),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(
    text: str, host: str, repository: str, tag: str, listed: str
) -> None:
    reference = Reference.parse(text, field="f")
    assert (reference.host, reference.repository, reference.tag) == (host, repository, tag)
    assert str(reference) == listed
    assert Reference.parse(listed, field="f") == reference


@pytest.mark.parametrize(
    "text",
    ["", "Upper/case", "a:", "a b", "r.example/", "r.example/../x", "a@sha256:1", "-x.y/a", "a:é"],
)
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^f: "):
        Reference.parse(text, field="f")
