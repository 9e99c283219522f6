"""What every test gets without asking: plugins, and a home of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = [
    "pytester",
    "tests.engine",
    "tests.empty_engine",
    "tests.no_skips",
    "tests.postgres",
    "tests.registry",
]


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A directory like ``tmp_path`` whose name leaves room for sockets (107 bytes in all)."""
    path = Path(tempfile.mkdtemp(prefix="bj-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_home(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the files and settings of the person who runs them."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(short_tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(short_tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(short_tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(short_tmp_path / "ipython"))
    for name in ("BACKENDAI_ENDPOINT", "BACKENDAI_ACCESS_KEY", "BACKENDAI_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
