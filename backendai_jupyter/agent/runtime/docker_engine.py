"""How to reach a Docker Engine, and its errors in words; what all Docker parts share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import EngineAway, RuntimeFailed

LABEL_KERNELSPEC = "ai.backend.kernelspec"  # "1" on every image that kernels can start from
LABEL_IMAGE_NAME = "ai.backend.image.name"

FIND_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 60.0
_UNIX = "unix://"
_DEFAULT_URL = "unix:///var/run/docker.sock"
_UNTAGGED = "<none>:<none>"
# What `docker info` says about the node, and what it means when it says no.
_ABILITIES = {
    "MemoryLimit": "The Docker Engine cannot limit the memory of kernels here.",
    "SwapLimit": "The Docker Engine cannot keep kernels from swap space here.",
    "CpuCfsQuota": "The Docker Engine cannot limit the CPU time of kernels here.",
    "PidsLimit": "The Docker Engine cannot limit the number of a kernel's processes here.",
}


async def find_engine(url: str | None) -> bool:
    """Whether a Docker Engine answers at ``url``, within two seconds.

    Without ``url``: where ``DOCKER_HOST`` says, else at the engine's usual socket.
    """
    try:
        async with asyncio.timeout(FIND_TIMEOUT_S):
            return await asyncio.to_thread(_answers, url)
    except TimeoutError:
        return False


def connect(url: str | None, *, connections: int = 4, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """Return a client that has spoken with the engine; blocks.

    Raises ``EngineAway`` if the engine cannot be reached.
    """
    where = {"base_url": url} if url else kwargs_from_env()
    try:
        _knock(_where(url), timeout_s)
        return APIClient(**where, version="auto", timeout=timeout_s, max_pool_size=connections)
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineAway(_unreachable(url, error)) from error


@contextlib.contextmanager
def in_words(doing: str, url: str | None) -> Iterator[None]:
    """Turn the SDK's errors into ``RuntimeFailed``; ``doing`` is e.g. ``start the kernel``."""
    try:
        yield
    except APIError as error:
        raise RuntimeFailed(f"Docker could not {doing}: {said(error)}") from error
    except (DockerException, requests.RequestException) as error:
        raise EngineAway(_unreachable(url, error)) from error


def said(error: APIError) -> str:
    """Return what the engine gave as its reason."""
    text = str(error.explanation or error)
    return text if text.endswith(".") else f"{text}."


def read_images(client: Any) -> tuple[Image, ...]:
    """Return the engine's tagged kernel images, newest first; blocks."""
    found = []
    listed = client.images(filters={"label": f"{LABEL_KERNELSPEC}=1"})
    for raw in sorted(listed, key=lambda raw: raw["Created"], reverse=True):
        labels = raw.get("Labels") or {}
        tags = [tag for tag in raw.get("RepoTags") or () if tag != _UNTAGGED]
        name = labels.get(LABEL_IMAGE_NAME)
        if name and tags:
            found.append(image_of(name, tags[0], raw, labels))
    return tuple(found)


def image_of(name: str, reference: str, raw: Mapping[str, Any], labels: Mapping[str, str]) -> Image:
    """Return what the engine lists or inspects as ``raw`` in our own words."""
    return Image(
        name=name,
        reference=reference,
        runtime="docker",
        digest=raw["Id"],
        size_bytes=raw["Size"],
        labels=dict(labels),
    )


def has_init(info: Mapping[str, Any]) -> bool:
    """Whether an engine that has said ``info`` can run kernels below a docker-init."""
    # Where it finds no such program the engine says N/A.
    return bool((info.get("InitCommit") or {}).get("ID", "") != "N/A")


def cannot(info: Mapping[str, Any]) -> list[str]:
    """Return what an engine that has said ``info`` cannot enforce, one sentence each."""
    missing = [note for ability, note in _ABILITIES.items() if info.get(ability) is False]
    if not any("seccomp" in option for option in info.get("SecurityOptions") or ()):
        missing.append("The Docker Engine cannot filter the system calls of kernels here.")
    if not has_init(info):
        missing.append("The Docker Engine has no docker-init: dead child processes pile up.")
    return missing


def _answers(url: str | None) -> bool:
    try:
        connect(url, timeout_s=FIND_TIMEOUT_S).close()
    except RuntimeFailed:
        return False
    return True


def _knock(url: str, timeout_s: float) -> None:
    """Raise ``OSError`` if nobody listens; the SDK would then forget to close its socket."""
    if url.startswith(_UNIX):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(timeout_s)
            probe.connect(url.removeprefix(_UNIX))


def _where(url: str | None) -> str:
    return str(url or kwargs_from_env().get("base_url") or _DEFAULT_URL)


def _unreachable(url: str | None, error: Exception) -> str:
    return (
        f"The Docker Engine at {_where(url)} cannot be reached ({root_cause(error)}). "
        "Start it, or check that this user may open its socket."
    )


def root_cause(error: BaseException) -> str:
    """Return the innermost reason; the SDK wraps it several times."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        reasons = (inner.__cause__, inner.__context__, *inner.args)
        inner = next((reason for reason in reasons if isinstance(reason, BaseException)), None)
    return str(error)
