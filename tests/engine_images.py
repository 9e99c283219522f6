"""The images of a private engine: loaded where another has built them, built where none has."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from docker import APIClient

from backendai_jupyter.agent.runtime.build import build_image
from backendai_jupyter.agent.runtime.docker_engine import image_of
from backendai_jupyter.domain.wire import Image
from tests.engine_materials import (
    KERNELSPECS,
    base_key,
    content_of,
    ensure_base_tarball,
    ensure_wheels,
    hash_of,
    say,
)

HASH_LABEL = "ai.backend.test.hash"
FROM_WHEELS = {"PIP_ARGS": "--no-index --find-links wheels"}
BASE_REPOSITORY = "backendai-test-base"


class EngineImages:
    """What is built stays in ``cache`` as well, for the next engine."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url = url
        self.cache = cache
        self.cache.mkdir(parents=True, exist_ok=True)
        self.base = ""  # reference of the Debian base, and a folder of wheels: what images
        self.wheels = Path()  # are built from; known after ensure_images

    def client(self) -> Any:
        """Return a low-level client; the caller closes it."""
        return APIClient(self.url, version="auto", timeout=600)

    def ensure_images(self, names: Sequence[str] = ("python", "r")) -> dict[str, Image]:
        """Return the images of these kernelspecs, built where they are missing or outdated."""
        with _locked(self.cache / "files.lock"):
            tarball = ensure_base_tarball(self.cache)
            self.wheels = ensure_wheels(self.cache)
            self.base = self._ensure_base(tarball)
            return {name: self._ensure_image(name) for name in names}

    def copy_images(self, other: EngineImages, names: Sequence[str]) -> None:
        """Have the images that another engine has, without building them again."""
        with contextlib.closing(other.client()) as source, contextlib.closing(self.client()) as own:
            known = {image["Id"] for image in own.images()}
            for tag in (_tag_of(name) for name in names):
                if source.inspect_image(tag)["Id"] not in known:
                    say(f"copying {tag}")
                    own.load_image(source.get_image(tag), quiet=True)
            own.prune_images({"dangling": True})

    def _ensure_base(self, tarball: Path) -> str:
        tag = f"{BASE_REPOSITORY}:{base_key()}"
        with contextlib.closing(self.client()) as client:
            if not client.images(name=tag):
                say(f"importing {tag}")
                client.import_image_from_file(str(tarball), BASE_REPOSITORY, base_key())
        return tag

    def _ensure_image(self, name: str) -> Image:
        context = KERNELSPECS / name
        wanted = hash_of(
            self.base, str(self.wheels), *(content_of(path) for path in sorted(context.iterdir()))
        )
        tag = _tag_of(name)
        if (found := self._existing(tag, wanted)) is not None:
            return found
        saved = self.cache / f"image-{name}-{wanted}.tar"
        if saved.exists():  # by another engine
            say(f"loading {tag}")
            with contextlib.closing(self.client()) as client, saved.open("rb") as tar:
                client.load_image(tar, quiet=True)
            if (found := self._existing(tag, wanted)) is not None:
                return found
        image = self._build(name, context, tag, wanted)
        for outdated in self.cache.glob(f"image-{name}-*.tar"):
            outdated.unlink()
        with contextlib.closing(self.client()) as client:
            partial = saved.with_suffix(".partial")
            with partial.open("wb") as tar:
                for chunk in client.get_image(tag):
                    tar.write(chunk)
            partial.rename(saved)
        return image

    def _build(self, name: str, context: Path, tag: str, wanted: str) -> Image:
        say(f"building {tag}")
        with_wheels = (context / "requirements.txt").exists()
        work = build_image(
            name,
            context,
            tag=tag,
            build_args={"BASE_IMAGE": self.base, **(FROM_WHEELS if with_wheels else {})},
            wheels=self.wheels if with_wheels else None,
            url=self.url,
            on_line=lambda _: None,
            labels={HASH_LABEL: wanted},
        )
        # A thread of its own, because a test's event loop may be set up in this one.
        with ThreadPoolExecutor(1) as thread:
            image = thread.submit(asyncio.run, work).result()
        with contextlib.closing(self.client()) as client:
            client.prune_images({"dangling": True})
        return image

    def _existing(self, tag: str, wanted: str) -> Image | None:
        with contextlib.closing(self.client()) as client:
            for raw in client.images(name=tag, filters={"label": f"{HASH_LABEL}={wanted}"}):
                return image_of(raw["Labels"]["ai.backend.image.name"], tag, raw, raw["Labels"])
        return None


def _tag_of(name: str) -> str:
    return f"backendai-{name}:latest"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
