"""Directories for sockets and secrets, which nobody else may have prepared for us."""

from __future__ import annotations

import os
from pathlib import Path

from backendai_jupyter.errors import Unavailable


def own_directory(path: Path, *, setting: str) -> Path:
    """Make the directory that ``setting`` names, or check that only we can write to it.

    Raises ``Unavailable`` where it is another's.  A reboot may have removed it.
    """
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    info = path.lstat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022 or path.is_symlink():
        raise Unavailable(
            f"{path} must be a directory that only you can write to; "
            f"remove it, or set {setting} to another one."
        )
    return path
