"""What the settings of managers and agents have in common."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from traitlets import TraitError

from backendai_jupyter.errors import InvalidInput

MAX_RUNTIME_DIR_BYTES = 50


def short_directory(name: str) -> str:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        return str(Path(base) / name)
    return str(Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}")


def checked_for_sockets(name: str, path: str) -> str:
    if len(os.fsencode(path)) > MAX_RUNTIME_DIR_BYTES:
        raise TraitError(f"{name} must be at most {MAX_RUNTIME_DIR_BYTES} bytes long")
    return path


def all_or_none(section: str, given: dict[str, str]) -> bool:
    missing = [name for name, value in given.items() if not value]
    if missing and len(missing) < len(given):
        there = next(name for name, value in given.items() if value)
        raise InvalidInput(f"{section}.{missing[0]}", f"is needed in a cluster, and {there} is set")
    return not missing
