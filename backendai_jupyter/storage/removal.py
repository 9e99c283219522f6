"""Remove directories with all in them, however deep, whatever programs still do there; blocks.

What is removed is first moved into a staging directory, where no program of a kernel can
reach it by a path.  Directories in it are moved beside it, so that nothing recurses: a
kernel can nest directories deeper than Python can call functions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

_ATTEMPTS = 100  # at a directory to which a running program goes on adding
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STALE_S = 24 * 3600.0


def remove_directory(name: str, dir_fd: int, staging_fd: int) -> None:
    """Remove the directory ``name``, which goes out of sight at once.

    Raises ``FileNotFoundError`` if there is nothing.
    """
    try:
        moved = _move_in(name, dir_fd, staging_fd)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(name, dir_fd=dir_fd)  # a folder that is a mount point of its own
    else:
        discard(moved, staging_fd)


def remove_path(path: Path, staging: Path) -> None:
    """The same for a directory of the server's own; succeeds if there is none."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    staging_fd = os.open(staging, flags)
    try:
        parent_fd = os.open(path.parent, flags)
        try:
            remove_directory(path.name, parent_fd, staging_fd)
        finally:
            os.close(parent_fd)
    except FileNotFoundError:
        return  # another manager was faster
    finally:
        os.close(staging_fd)


def discard(name: str, staging_fd: int) -> None:
    """Remove ``name`` from a staging directory, whatever it is, and if it is there."""
    pending = [name]
    attempts = 0
    while pending:
        current = pending.pop()
        try:
            if not _is_directory(current, staging_fd):
                os.unlink(current, dir_fd=staging_fd)
                continue
            pending += _emptied(current, staging_fd)
            os.rmdir(current, dir_fd=staging_fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            attempts += 1
            if error.errno != errno.ENOTEMPTY or attempts > _ATTEMPTS:
                raise
            pending.append(current)


def sweep(staging: Path, *, now: float | None = None) -> None:
    """Remove what a killed server left in a staging directory a day ago or earlier."""
    before = (time.time() if now is None else now) - _STALE_S
    fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            names = [e.name for e in entries if e.stat(follow_symlinks=False).st_ctime < before]
        for name in names:
            discard(name, fd)
    finally:
        os.close(fd)


def _move_in(name: str, dir_fd: int, staging_fd: int) -> str:
    moved = secrets.token_hex(16)
    os.rename(name, moved, src_dir_fd=dir_fd, dst_dir_fd=staging_fd)
    return moved


def _emptied(name: str, staging_fd: int) -> list[str]:
    """Empty a directory; return as what its directories are in the staging directory now."""
    # A program may have taken the right to do so from us.
    os.chmod(name, 0o700, dir_fd=staging_fd)
    fd = os.open(name, _DIRECTORY, dir_fd=staging_fd)
    moved = []
    try:
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries]
        for inner in names:
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.unlink(inner, dir_fd=fd)
                except IsADirectoryError:
                    moved.append(_move_in(inner, fd, staging_fd))
    finally:
        os.close(fd)
    return moved


def _is_directory(name: str, staging_fd: int) -> bool:
    """Whether it is one and no link: a kernel may have swapped it just before it was moved."""
    found = os.stat(name, dir_fd=staging_fd, follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode)
