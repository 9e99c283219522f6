"""How files come to be in a folder, such that a kernel can write them too.

A kernel runs as its folder's owner.  A server that runs as root must therefore give away
what it creates; one that does not is the owner itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from backendai_jupyter.errors import Conflict


@contextlib.contextmanager
def replacing(path: str, folder: str, *, text: bool, **kwargs: Any) -> Iterator[IO[Any]]:
    """Write a new file that takes the place of ``path`` when it is complete, or vanishes.

    The new file's name cannot be guessed, or a kernel could plant a symlink there.  It has
    the mode and owner of the old one; without an old one, the owner of ``folder``.
    """
    directory = os.path.dirname(path)  # noqa: PTH120 - a Path would cost more than the write
    temporary = f"{directory}/.~{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(fd, "w" if text else "wb", **kwargs) as file:
            _resemble(fd, path, folder)
            yield file
            file.flush()
            os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def hand_over(path: str, folder: str) -> None:
    """Give what this server has made at ``path``, and beneath it, to the owner of ``folder``."""
    if os.geteuid() != 0:
        return
    uid, gid = owner_of(folder)
    if os.lstat(path).st_uid == uid:
        return
    for _, folders, files, fd in os.fwalk(path):
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)


def owner_of(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_uid, found.st_gid


def _resemble(fd: int, path: str, folder: str) -> None:
    try:
        old = os.lstat(path)
    except FileNotFoundError:
        if os.geteuid() == 0:
            os.fchown(fd, *owner_of(folder))
        return
    if not stat.S_ISREG(old.st_mode):
        raise Conflict("What is there is not a file, and cannot be replaced by one.")
    if os.geteuid() == 0:
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, old.st_mode & 0o777)  # neither setuid nor setgid: the content is new
