"""Image registries of the tests' own: Docker's program, and one that misbehaves as it is told.

The second serves a small image made here, whose layers can be held back, damaged or cut off.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import platform
import socket
import tarfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets

from tests.ports import free_port
from tests.services import Service

USER, PASSWORD = "puller", "s3cret/pull"
TOKEN = "a-token-for-the-tests"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
KERNEL_LABELS = {"ai.backend.kernelspec": "1", "ai.backend.runtime-type": "python"}
_TRICKLE_S = 0.02
_TLS = b"\x16"  # its first byte
# USER and PASSWORD as `htpasswd -B` writes them.
_USERS = "puller:$2y$05$abcdefghijklmnopqrstuu75NUJM6BulrR/zBjISMNfyTJ.jk3tgS\n"


class DockerRegistry(Service):
    """Docker's own registry, as Debian has it; it takes what an engine pushes."""

    def __init__(self, directory: Path, *, secured: bool = False) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        super().__init__(directory, ["docker-registry", "serve", "config.json"])
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
            "http": {"addr": self.host},
        }
        if secured:
            (directory / "users").write_text(_USERS)
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "users")}}
        (directory / "config.json").write_text(json.dumps(settings))

    def take(self, client: Any, image: str, name: str, *, auth: Any = None) -> str:
        """Have an engine push its ``image`` and return its reference here; blocks."""
        repository, tag = f"{self.host}/{name.partition(':')[0]}", name.partition(":")[2]
        client.tag(image, repository, tag)
        pushed = client.push(repository, tag, stream=True, decode=True, auth_config=auth or {})
        problems = [message["error"] for message in pushed if "error" in message]
        assert not problems, problems
        client.remove_image(f"{repository}:{tag}")
        return f"{repository}:{tag}"

    async def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                return (await client.get(f"http://{self.host}/v2/")).status_code in {200, 401}
        return False


@dataclass
class SmallImage:
    """A few layers of noise, and labels."""

    name: str = "tiny"
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ARCHITECTURE
    layer_bytes: int = 300_000
    layers: int = 2

    def __post_init__(self) -> None:
        tars = [_tar(f"noise-{number}", self.layer_bytes) for number in range(self.layers)]
        blobs = [gzip.compress(tar, 1) for tar in tars]
        labels = {**KERNEL_LABELS, "ai.backend.image.name": self.name, **self.labels}
        self.config = json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "config": {"Labels": labels, "Cmd": ["/noise-0"]},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            }
        ).encode()
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _described(CONFIG, self.config),
                "layers": [_described(LAYER, blob) for blob in blobs],
            }
        ).encode()
        self.blobs = {digest_of(blob): blob for blob in (*blobs, self.config)}

    @property
    def id(self) -> str:
        """What an engine calls it."""
        return digest_of(self.config)


class RegistryThatMisbehaves:
    """Does what its attributes say; use it as ``async with`` on the test's event loop."""

    def __init__(self) -> None:
        self.asks_for = ""  # a log-in: ``basic``, ``bearer`` or none
        self.damages_layers = False
        self.cuts_layers = False
        self.status = 0  # answers everything with this, where it is not 0
        self.layers_may_end = asyncio.Event()  # until then they stop in the middle
        self.layers_may_end.set()
        self.asked: list[str] = []  # ``METHOD path``
        self.held = 0  # layers that somebody waits for the end of
        self.manifests: dict[str, tuple[str, bytes]] = {}  # media type and content, by path
        self.blobs: dict[str, bytes] = {}
        self.host = ""

    async def __aenter__(self) -> RegistryThatMisbehaves:
        sockets = bind_sockets(0, "127.0.0.1")
        self.host = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        self._server = _ServerWithoutTls(
            web.Application([(r"/(.*)", _Handler, {"registry": self})])
        )
        self._server.add_sockets(sockets)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.layers_may_end.set()
        self._server.stop()
        await self._server.close_all_connections()

    def have(self, image: SmallImage, *, name: str = "team/tiny", tag: str = "1") -> str:
        """Serve an image and return its reference."""
        self.blobs.update(image.blobs)
        self._put(name, tag, MANIFEST, image.manifest)
        return f"{self.host}/{name}:{tag}"

    def have_index(self, images: list[SmallImage], *, name: str = "team/tiny") -> str:
        """Serve images for several platforms under one tag."""
        entries = []
        for image in images:
            self.have(image, name=name, tag=digest_of(image.manifest))
            made_for = {"os": "linux", "architecture": image.architecture}
            entries.append({**_described(MANIFEST, image.manifest), "platform": made_for})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        self._put(name, "1", INDEX, json.dumps(index).encode())
        return f"{self.host}/{name}:1"

    def hold(self) -> None:
        """Let layers stop in the middle until ``layers_may_end`` is set."""
        self.layers_may_end.clear()

    def layers_asked(self, image: SmallImage) -> list[str]:
        """Return the layers that somebody has begun to fetch, once for each time."""
        layers = [digest for digest in image.blobs if digest != image.id]
        return [one for one in self.asked if any(digest in one for digest in layers)]

    def _put(self, name: str, tag: str, media_type: str, content: bytes) -> None:
        for known_as in (tag, digest_of(content)):
            self.manifests[f"v2/{name}/manifests/{known_as}"] = (media_type, content)


class _ServerWithoutTls(HTTPServer):
    """Hangs up on who begins with TLS, as Docker Engines do, instead of waiting for the rest."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        loop = IOLoop.current()

        def readable(*_: object) -> None:
            loop.remove_handler(stream.socket)
            if stream.socket.recv(1, socket.MSG_PEEK) == _TLS:
                stream.close()
            else:
                super(_ServerWithoutTls, self).handle_stream(stream, address)

        loop.add_handler(stream.socket, readable, IOLoop.READ)


class _Handler(web.RequestHandler):
    registry: RegistryThatMisbehaves

    def initialize(self, registry: RegistryThatMisbehaves) -> None:
        self.registry = registry

    async def get(self, path: str) -> None:
        registry = self.registry
        registry.asked.append(f"{self.request.method} {path}")
        if registry.status:
            self.set_status(registry.status)
        elif path == "token":
            self._give_token()
        elif not self._is_let_in():
            self._challenge(path)
        elif path == "v2/":
            self.finish({})
        elif path in registry.manifests:
            self._manifest(*registry.manifests[path])
        elif (digest := path.rpartition("/")[2]) in registry.blobs:
            await self._blob(registry.blobs[digest])
        else:
            self.set_status(404)
            self.finish({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})

    head = get

    def _manifest(self, media_type: str, content: bytes) -> None:
        self.set_header("Content-Type", media_type)
        self.set_header("Docker-Content-Digest", digest_of(content))
        self.finish(content)

    async def _blob(self, content: bytes) -> None:
        registry = self.registry
        if begin := self.request.headers.get("Range", "").removeprefix("bytes=").rstrip("-"):
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            content = content[int(begin) :]
        self.set_header("Content-Length", str(len(content)))
        if content.startswith(b"{"):  # a configuration
            self.finish(content)
            return
        half = len(content) // 2
        with contextlib.suppress(StreamClosedError):
            self.write(content[:half])
            await self.flush()
            sent = half + await self._trickle(content[half:])
            if registry.cuts_layers:
                self.detach().close()
                return
            rest = content[sent:]
            self.finish(bytes(len(rest)) if registry.damages_layers else rest)

    async def _trickle(self, content: bytes) -> int:
        """Send a byte now and then until the rest may come, and return how many.

        With none at all an engine that has given up would not take note of it.  Raises
        ``StreamClosedError`` where it has.
        """
        sent = 0
        self.registry.held += 1
        try:
            while not self.registry.layers_may_end.is_set() and sent < len(content):
                self.write(content[sent : sent + 1])
                await self.flush()
                sent += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TRICKLE_S):
                        await self.registry.layers_may_end.wait()
        finally:
            self.registry.held -= 1
        return sent

    def _is_let_in(self) -> bool:
        given = self.request.headers.get("Authorization", "")
        return given == {"basic": BASIC, "bearer": f"Bearer {TOKEN}"}.get(
            self.registry.asks_for, given
        )

    def _challenge(self, path: str) -> None:
        self.set_status(401)
        where = f"http://{self.registry.host}/token"
        scope = f"repository:{path.removeprefix('v2/').partition('/manifests')[0]}:pull"
        self.set_header(
            "WWW-Authenticate",
            f'Bearer realm="{where}",service="tests",scope="{scope}"'
            if self.registry.asks_for == "bearer"
            else 'Basic realm="tests"',
        )
        self.finish({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]})

    def _give_token(self) -> None:
        if self.request.headers.get("Authorization") != BASIC:
            self.set_status(401)
            self.finish({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]})
            return
        self.finish({"token": TOKEN, "expires_in": 300})


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _described(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": digest_of(content)}


def _tar(name: str, size_bytes: int) -> bytes:
    content = os.urandom(size_bytes)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"


@pytest.fixture
async def registry() -> AsyncIterator[RegistryThatMisbehaves]:
    """A registry on the test's event loop that behaves until it is told otherwise."""
    async with RegistryThatMisbehaves() as one:
        yield one
