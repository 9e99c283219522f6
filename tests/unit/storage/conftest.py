"""Two folders on one host, and something outside of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.domain.vfolders import Permission
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.hosts import VFolderHost

KERNEL = 4711 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def host(tmp_path: Path) -> VFolderHost:
    host = VFolderHost("local", tmp_path / "host")
    host.prepare()
    return host


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory of the server's."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("the key")
    return secret


@pytest.fixture
def data(host: VFolderHost) -> Path:
    return _folder(host, "data")


@pytest.fixture
def extra(host: VFolderHost) -> Path:
    return _folder(host, "extra")


@pytest.fixture
def home(host: VFolderHost, data: Path, extra: Path) -> Home:
    """What one viewer has: ``data`` and ``extra``, and ``fixed``, which is read-only."""
    folders = [
        VFolder(path.name, "me", path.name, host.name, str(path), 0.0)
        for path in (data, extra, _folder(host, "fixed"))
    ]
    folders[2] = replace(folders[2], permission=Permission.READ_ONLY)
    return Home(folders, {host.name: host})


def _folder(host: VFolderHost, name: str) -> Path:
    path = host.folder_path("me", name)
    path.mkdir(parents=True)
    os.chown(path, KERNEL, KERNEL)
    return path
