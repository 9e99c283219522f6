"""Ask a registry what an image is, without fetching it; all calls block.

It speaks as much of https://distribution.github.io/distribution/spec/api/ as that takes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests

from backendai_jupyter.agent.runtime.docker_engine import root_cause
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.references import Reference
from backendai_jupyter.errors import (
    NoSuchImage,
    NotLetIn,
    PullFailed,
    RegistryAway,
    WrongPlatform,
)

TIMEOUT_S = 10.0  # for the next bytes of an answer
MAX_BYTES = 4 << 20  # of a manifest or a configuration, as registries themselves limit them
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ACCEPTED = ", ".join((*_INDEXES, *_MANIFESTS))
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_FIELD = re.compile(r'(\w+)="([^"]*)"')
_ID = 12  # characters by which an engine calls a layer


@dataclass(frozen=True, slots=True)
class Description:
    """What a registry has by the name of ``reference`` for machines like this one."""

    reference: Reference
    digest: str  # of what the tag names
    digests: frozenset[str]  # by any of which an engine may call the image
    labels: Mapping[str, str]
    layers: Mapping[str, int] = field(default_factory=dict)  # bytes, by the engine's name of each

    @property
    def size_bytes(self) -> int:
        """How much there is to fetch, at most."""
        return sum(self.layers.values())


class RegistryClient:
    """One conversation with a registry about one image; use it as ``with``."""

    def __init__(self, registry: Registry, reference: Reference) -> None:
        self._registry = registry
        self._reference = reference
        self._base = f"{registry.url}/v2/{reference.repository}"
        self._login = registry.login()
        self._authorization: dict[str, str] = {}
        self._session = requests.Session()
        self._session.auth = _as_it_is  # else ~/.netrc would add what it has
        if registry.ca_file is not None:
            self._session.verify = str(registry.ca_file)

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def digest(self) -> str:
        """Return the digest of what the tag names now; empty if the registry does not say."""
        answer = self._ask("HEAD", f"manifests/{self._reference.tag}", _ACCEPTED)
        return str(answer.headers.get("Docker-Content-Digest", ""))

    def describe(self) -> Description:
        """Raise a ``PullFailed`` that says why nothing can be known."""
        try:
            return self._describe()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise PullFailed(
                f"{self._where} says of {self._reference} what cannot be read."
            ) from None

    def _describe(self) -> Description:
        digest, manifest = self._manifest(self._reference.tag)
        digests = {digest}
        if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
            own = self._for_this_machine(manifest)
            digest_of_own, manifest = self._manifest(own)
            digests.add(digest_of_own)
        if not isinstance(manifest.get("config"), dict):
            raise PullFailed(
                f"{self._reference} is stored in a way that is not supported any more."
            )
        config_digest = str(manifest["config"]["digest"])
        config = _parsed(self._blob(config_digest), config_digest)
        self._check_platform(config)
        return Description(
            reference=self._reference,
            digest=digest,
            digests=frozenset(digests | {config_digest}),
            labels=dict((config.get("config") or {}).get("Labels") or {}),
            layers={_id(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]},
        )

    def _manifest(self, tag_or_digest: str) -> tuple[str, dict[str, Any]]:
        content = self._read(f"manifests/{tag_or_digest}", _ACCEPTED)
        wanted = tag_or_digest if ":" in tag_or_digest else ""
        return _digest(content), _parsed(content, wanted)

    def _blob(self, digest: str) -> bytes:
        return self._read(f"blobs/{digest}", "application/json, */*")

    def _for_this_machine(self, index: Mapping[str, Any]) -> str:
        there = [(one.get("platform") or {}, one["digest"]) for one in index["manifests"]]
        for made_for, digest in there:
            if _platform(made_for) == this_platform():
                return str(digest)
        known = {_platform(made_for) for made_for, _ in there} - {"unknown/unknown"}
        raise self._wrong_platform(", ".join(sorted(known)) or "none")

    def _check_platform(self, config: Mapping[str, Any]) -> None:
        made_for = _platform(config)
        if made_for != this_platform():
            raise self._wrong_platform(made_for)

    def _wrong_platform(self, made_for: str) -> WrongPlatform:
        return WrongPlatform(
            f"{self._reference} is made for {made_for}, and this node is {this_platform()}."
        )

    def _read(self, path: str, accepted: str) -> bytes:
        with self._ask("GET", path, accepted) as answer:
            try:
                content: bytes = answer.raw.read(MAX_BYTES + 1, decode_content=True)
            except Exception as error:  # urllib3 has a dozen kinds for a cut or garbled answer
                raise self._away(root_cause(error)) from error
        if len(content) > MAX_BYTES:
            raise PullFailed(f"{self._where} answered with more than {MAX_BYTES >> 20} MiB.")
        return content

    def _ask(self, method: str, path: str, accepted: str) -> requests.Response:
        answer = self._send(method, f"{self._base}/{path}", accepted)
        if answer.status_code == HTTPStatus.UNAUTHORIZED and not self._authorization:
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.close()
            self._authorization = {"Authorization": self._answer_to(challenge)}
            answer = self._send(method, f"{self._base}/{path}", accepted)
        self._check(answer)
        return answer

    def _send(self, method: str, url: str, accepted: str, **more: Any) -> requests.Response:
        headers = {"Accept": accepted, **self._authorization, **more.pop("headers", {})}
        try:
            return self._session.request(
                method, url, headers=headers, timeout=TIMEOUT_S, stream=True, **more
            )
        except requests.RequestException as error:
            raise self._away(root_cause(error)) from error

    def _check(self, answer: requests.Response) -> None:
        if answer.ok:
            return
        answer.close()
        match answer.status_code:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise self._refused()
            case HTTPStatus.NOT_FOUND:
                raise NoSuchImage(f"{self._where} has no image {self._reference}.")
        raise self._away(f"it answered {answer.status_code}")

    def _answer_to(self, challenge: str) -> str:
        """Return the header that a registry asks for; see its "token authentication"."""
        scheme, _, rest = challenge.partition(" ")
        fields = dict(_FIELD.findall(rest))
        if scheme.lower() == "basic":
            if self._login is None:
                raise self._refused()
            return self._basic()
        if scheme.lower() != "bearer" or "realm" not in fields:
            raise PullFailed(f"{self._where} asks for a kind of log-in that is not known here.")
        return f"Bearer {self._token(fields)}"

    def _token(self, fields: Mapping[str, str]) -> str:
        realm = fields["realm"]
        if self._registry.url.startswith("https:") and urlsplit(realm).scheme != "https":
            raise PullFailed(f"{self._where} would have its password sent without TLS.")
        scope = fields.get("scope") or f"repository:{self._reference.repository}:pull"
        query = {"scope": scope}
        if "service" in fields:
            query["service"] = fields["service"]
        headers = {} if self._login is None else {"Authorization": self._basic()}
        with self._send("GET", realm, "application/json", params=query, headers=headers) as answer:
            self._check(answer)
            try:
                given = answer.json()
                return str(given.get("token") or given["access_token"])
            except (ValueError, KeyError, AttributeError):
                raise PullFailed(f"{self._where} gave no token that can be read.") from None

    def _basic(self) -> str:
        assert self._login is not None
        pair = f"{self._login.username}:{self._login.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    @property
    def _where(self) -> str:
        return f"The registry {self._registry.host}"

    def _refused(self) -> NotLetIn:
        return refused(self._registry, self._reference)

    def _away(self, why: str) -> RegistryAway:
        return RegistryAway(f"{self._where} cannot be asked for {self._reference}: {why}.")


def refused(registry: Registry, reference: Reference) -> NotLetIn:
    who = f"the user {registry.username!r}" if registry.username else "those who give no name"
    return NotLetIn(
        f"The registry {registry.host} does not let {who} have {reference}; see "
        "BackendAIAgent.registries on this node."
    )


def this_platform() -> str:
    """Return what images for this machine say that they are made for."""
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def _platform(made_for: Mapping[str, Any]) -> str:
    return f"{made_for.get('os', 'unknown')}/{made_for.get('architecture', 'unknown')}"


def _parsed(content: bytes, digest: str) -> dict[str, Any]:
    """Raise ``PullFailed`` for what is not what ``digest`` names, if that is given."""
    if digest and _digest(content) != digest:
        raise PullFailed(f"What the registry has sent is not what {digest} names.")
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PullFailed("What the registry has sent cannot be read.")
    return found


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _id(digest: str) -> str:
    return digest.partition(":")[2][:_ID]


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
