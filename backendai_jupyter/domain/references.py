"""What an image is called in a registry: ``registry.example:5000/team/python:3.11``.

The grammar is Docker's: https://pkg.go.dev/github.com/distribution/reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backendai_jupyter.errors import InvalidInput

DOCKER_HUB = "docker.io"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-f:]+\])(?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Reference:
    """One tag of one repository; ``str`` gives it as a Docker Engine lists it."""

    host: str  # with the port, where it is not the usual one
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str, *, field: str) -> Reference:
        """Raise ``InvalidInput`` for what names no tag of a repository.

        Without a host it is Docker Hub's, without a tag ``latest``.  A digest is refused: an
        engine would keep what it has fetched by one without a name.
        """
        if "@" in text:
            raise InvalidInput(field, f"{text!r} has a digest; name a tag")
        first, slash, rest = text.partition("/")
        names_host = slash and ("." in first or ":" in first or first == "localhost")
        host, path = (first, rest) if names_host else (DOCKER_HUB, text)
        repository, colon, tag = path.partition(":")
        if host == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        reference = cls(host, repository, tag if colon else "latest")
        is_sound = (
            _HOST.fullmatch(host)
            and _REPOSITORY.fullmatch(repository)
            and _TAG.fullmatch(reference.tag)
        )
        if not is_sound:
            raise InvalidInput(field, f"{text!r} is no image of a registry, as in host/name:tag")
        return reference

    def __str__(self) -> str:
        if self.host == DOCKER_HUB:
            return f"{self.repository.removeprefix('library/')}:{self.tag}"
        return f"{self.name}:{self.tag}"

    @property
    def name(self) -> str:
        """The repository with its host."""
        return f"{self.host}/{self.repository}"
