"""A contents manager over two folders, and what a kernel may have put in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.provisioning.backends import BACKENDS
from tests.unit.contents.small_backend import SmallBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SmallBackend]:
    backend = SmallBackend(tmp_path / "data")
    BACKENDS.serve(backend.as_backend())
    yield backend
    BACKENDS.serve(None)


@pytest.fixture
async def data(backend: SmallBackend) -> Path:
    """The directory of the folder ``data``."""
    return await backend.make_folder("data")


@pytest.fixture
async def extra(backend: SmallBackend) -> Path:
    """The directory of the folder ``extra``."""
    return await backend.make_folder("extra")


@pytest.fixture
async def contents(
    backend: SmallBackend, data: Path, extra: Path
) -> AsyncIterator[VFolderContentsManager]:
    manager = VFolderContentsManager()
    yield manager
    await manager.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory of the server's with a file in it, outside of every folder."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("the key")
    return secret
