"""Directories for sockets and secrets, which nobody else may have prepared for us."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from backendai_jupyter.errors import InvalidInput, Unavailable


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


def read_secret(path: Path, *, field: str) -> str:
    """Return the one line of a file that nobody else may read.

    Raises ``InvalidInput`` about ``field``, which never tells the content.
    """
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is no text"
        raise InvalidInput(field, f"{path}: {problem}") from None
    if mode & 0o077:
        raise InvalidInput(field, f"others may read {path} ({mode:04o}): chmod 600 {path}")
    if not text or "\n" in text:
        raise InvalidInput(field, f"{path} must have one line")
    return text


def lasting_secret(path: Path) -> Path:
    """Return the path of a secret of ours; it is made where there is none, whole or not at all."""
    if not path.exists():
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(partial)
        Path(partial).unlink()
    return path
