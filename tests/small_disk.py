"""A file system of its own that a test can fill; it takes root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
_ALL = 1 << 20  # bytes written at a time


class SmallDisk:
    """Full after ``fill`` but for the last few bytes, and with room again after ``make_room``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @classmethod
    @contextmanager
    def mounted_at(cls, path: Path, *, size_mb: int) -> Iterator[SmallDisk]:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = f"size={size_mb}m,mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(path)], check=True)
        try:
            yield cls(path)
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (_ALL, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def make_room(self) -> None:
        self._ballast.unlink()
