"""The settings of agents about images of registries: which, from where, and as whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from traitlets import Dict, Enum, Float, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from backendai_jupyter.domain.references import DOCKER_HUB, Reference
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.storage.private import read_secret

FIELD = "BackendAIAgent.registries"
_KEYS = {"url", "username", "password_file", "ca_file"}
_HUB_API = "https://registry-1.docker.io"  # docker.io itself is a site for people


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


@dataclass(frozen=True, slots=True)
class Registry:
    host: str  # as image references name it
    url: str
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None

    def login(self) -> Login | None:
        """Read the password, which may be another one by now; raises ``InvalidInput``."""
        if self.password_file is None:
            return None
        return Login(self.username, read_secret(self.password_file, field=FIELD))


class ImageSettings(Configurable):
    """A part of ``BackendAIAgent``."""

    registry_images = List(
        Unicode(),
        help="""Images of registries that kernels may be started from, e.g.
        ``["registry.example:5000/team/python:3.11"]``.  Their labels are read from the registry,
        so that they are offered before any node has them.  What is not named here is never
        fetched.""",
    ).tag(config=True, shared=True)

    registries = List(
        Dict(),
        help="""How this node reaches registries, where that is more than HTTPS and no password,
        e.g. ``[{"url": "https://registry.example:5000", "username": "puller", "password_file":
        "/etc/backendai/registry-password", "ca_file": "/etc/backendai/registry-ca.pem"}]``.  An
        ``http://`` address is one without TLS.  The password's file may be readable by its owner
        only.  The Docker engine must know the same authority (``/etc/docker/certs.d``), or
        exception from TLS (``insecure-registries``), by itself.""",
    ).tag(config=True)

    auto_pull = Enum(
        ["tag", "digest", "none"],
        default_value="tag",
        help="""When an image of ``registry_images`` is fetched.  ``tag``: when a kernel needs it
        and this node has none of its name.  ``digest``: also when the registry has another one
        by that tag now.  ``none``: never.  The first start on a node waits for the image.""",
    ).tag(config=True, shared=True)

    registry_refresh_s = Float(
        60.0,
        min=1.0,
        max=86400.0,
        help="""Seconds after which it is looked again what registries have by the tags of
        ``registry_images``.""",
    ).tag(config=True, shared=True)

    def known_registries(self) -> dict[str, Registry]:
        """Return ``registries`` by the host that images name."""
        return read_registries(self.registries)

    def wanted_images(self) -> tuple[Reference, ...]:
        """Return ``registry_images`` in their parts."""
        return tuple(_read_image(text) for text in self.registry_images)

    @validate("registries")
    def _are_registries(self, proposal: Any) -> list[dict[str, Any]]:
        try:
            read_registries(proposal.value)
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return list(proposal.value)

    @validate("registry_images")
    def _are_images(self, proposal: Any) -> list[str]:
        try:
            for text in proposal.value:
                _read_image(text)
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return list(proposal.value)


def read_registries(raw: Sequence[Mapping[str, object]]) -> dict[str, Registry]:
    """Return them by host; raises ``InvalidInput`` naming what is wrong."""
    found: dict[str, Registry] = {}
    for position, one in enumerate(raw):
        registry = _read(one, f"{FIELD}[{position}]")
        if registry.host in found:
            raise InvalidInput(f"{FIELD}[{position}]", f"{registry.host} is there twice")
        found[registry.host] = registry
    return found


def registry_of(reference: Reference, known: Mapping[str, Registry]) -> Registry:
    """Return the registry of an image; one that is not configured is anybody's, by HTTPS."""
    host = reference.host
    if host in known:
        return known[host]
    if host == DOCKER_HUB:
        return Registry(host, _HUB_API)
    # As a Docker Engine does, which trusts this machine.
    return Registry(host, f"{'http' if _is_loopback(host) else 'https'}://{host}")


def _read(raw: Mapping[str, object], field: str) -> Registry:
    for key, value in raw.items():
        if key not in _KEYS:
            raise InvalidInput(
                f"{field}.{key}", f"is unknown; known are {', '.join(sorted(_KEYS))}"
            )
        if not isinstance(value, str):
            raise InvalidInput(f"{field}.{key}", f"{value!r} is no text")
    given = {key: str(value) for key, value in raw.items()}
    parts = urlsplit(given.get("url", ""))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise InvalidInput(f"{field}.url", "write https://host, or https://host:port")
    if parts.username or parts.password:
        raise InvalidInput(f"{field}.url", "may hold no password; see username and password_file")
    if bool(given.get("username")) != bool(given.get("password_file")):
        raise InvalidInput(field, "username and password_file go together")
    return Registry(
        host=parts.netloc,
        url=_HUB_API if parts.netloc == DOCKER_HUB else f"{parts.scheme}://{parts.netloc}",
        username=given.get("username", ""),
        password_file=Path(given["password_file"]) if given.get("password_file") else None,
        ca_file=Path(given["ca_file"]) if given.get("ca_file") else None,
    )


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _read_image(text: str) -> Reference:
    return Reference.parse(text, field="BackendAIAgent.registry_images")
