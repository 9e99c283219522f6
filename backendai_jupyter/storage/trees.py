"""Copy, move, remove and measure whole directories, held by descriptors all the way; blocks.

Whatever a kernel swaps meanwhile: no link is followed, nothing is entered by its path, and
what is no file, directory or link is left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass

from backendai_jupyter.errors import Conflict, Refused
from backendai_jupyter.storage.beneath import MAX_DEPTH, Spot
from backendai_jupyter.storage.files import (
    CrossDevice,
    Staged,
    check_may_change,
    check_own,
    copy_bytes,
    open_directory,
    open_to_read,
    rename,
    sentences,
)
from backendai_jupyter.storage.removal import remove_directory

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Usage:
    """What a folder holds; a file with several names counts once."""

    files: int
    size_bytes: int  # as the files say
    disk_bytes: int  # as they occupy


def copy(source: Spot, target: Spot) -> None:
    """Copy a file, or a directory with all in it; raises ``Conflict`` if ``target`` exists.

    Nothing is seen of the copy until it is complete.  Links are copied as links.
    """
    check_may_change(target)
    staged = Tree(target)
    try:
        if stat.S_ISDIR(source.status().st_mode):
            fd = open_directory(source)
            try:
                with sentences(source):
                    staged.copy_directory(fd, source)
            finally:
                os.close(fd)
        else:
            fd = open_to_read(source)
            try:
                with sentences(target):
                    staged.copy_file(fd, staged.dir_fd, staged.name)
            finally:
                os.close(fd)
        staged.move_to(target, replace=False)
    finally:
        staged.discard()


def fill(source: Spot, target: Spot) -> None:
    """Copy all that is in one directory into another one, which is empty."""
    if target.folder.readonly:
        raise Refused(f"The folder {target.folder.name!r} is read-only.")
    staged = Tree(target)
    try:
        source_fd, target_fd = open_directory(source), open_directory(target)
        try:
            staged.copy_directory(source_fd, source)
            with sentences(target):
                staged.empty_into(target_fd)
        finally:
            os.close(source_fd)
            os.close(target_fd)
    finally:
        staged.discard()


def move(old: Spot, new: Spot) -> None:
    """Move a file, link or directory; to another host, or another owner, by a copy."""
    if old.owner == new.owner:
        try:
            rename(old, new)
        except CrossDevice:
            pass
        else:
            return
    copy(old, new)
    remove(old)


def remove(spot: Spot) -> None:
    """Remove a file, a link as such, or a directory with all in it.

    A directory goes out of sight at once; what a running program still adds to it goes too.
    """
    check_may_change(spot)
    if not stat.S_ISDIR(spot.status().st_mode):
        with sentences(spot):
            os.unlink(spot.name, dir_fd=spot.dir_fd)
        return
    staging_fd = os.open(spot.host.staging, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with sentences(spot):
            remove_directory(spot.name, spot.dir_fd, staging_fd)
    finally:
        os.close(staging_fd)


class Tree(Staged):
    """A staged file or directory."""

    def copy_directory(self, source_fd: int, source: Spot) -> None:
        """Make it a copy of the directory at ``source_fd``."""
        os.mkdir(self.name, 0o700, dir_fd=self.dir_fd)
        fd = os.open(self.name, _DIRECTORY, dir_fd=self.dir_fd)
        try:
            self._copy_entries(source_fd, fd, source, 1)
        finally:
            os.close(fd)

    def empty_into(self, target_fd: int) -> None:
        """Move everything that is in it into another directory."""
        fd = os.open(self.name, _DIRECTORY, dir_fd=self.dir_fd)
        try:
            for name in os.listdir(fd):  # noqa: PTH208 - of a descriptor
                os.rename(name, name, src_dir_fd=fd, dst_dir_fd=target_fd)
        finally:
            os.close(fd)

    def copy_file(self, source_fd: int, into: int, name: str) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=into)
        try:
            copy_bytes(source_fd, fd)
            self._resemble(os.fstat(source_fd), fd)
        finally:
            os.close(fd)

    def _copy_entries(self, source_fd: int, into: int, source: Spot, depth: int) -> None:
        """Copy what is in a directory, then its mode and times."""
        if depth > MAX_DEPTH:
            raise Conflict(f"{source.path!r} has directories too deep to be copied.")
        with os.scandir(source_fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
                self._copy_entry(name, source_fd, into, source, depth)
        self._resemble(os.fstat(source_fd), into)

    def _copy_entry(self, name: str, source_fd: int, into: int, source: Spot, depth: int) -> None:
        found = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=into)
            if os.geteuid() == 0:
                os.chown(name, *self._owner, dir_fd=into, follow_symlinks=False)
        elif stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=into)
            self._descend(name, source_fd, into, source, depth + 1)
        elif stat.S_ISREG(found.st_mode):
            fd = os.open(name, _FILE, dir_fd=source_fd)
            try:
                opened = os.fstat(fd)
                if stat.S_ISREG(opened.st_mode):
                    check_own(source, opened)
                    self.copy_file(fd, into, name)
            finally:
                os.close(fd)

    def _descend(self, name: str, source_fd: int, into: int, source: Spot, depth: int) -> None:
        inner = os.open(name, _DIRECTORY, dir_fd=source_fd)
        try:
            target = os.open(name, _DIRECTORY, dir_fd=into)
            try:
                self._copy_entries(inner, target, source, depth)
            finally:
                os.close(target)
        finally:
            os.close(inner)

    def _resemble(self, found: os.stat_result, fd: int) -> None:
        if os.geteuid() == 0:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, found.st_mode & 0o777)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def usage(path: str) -> Usage:
    """Measure the folder whose directory is ``path``, down to ``MAX_DEPTH``."""
    files = size = disk = 0
    seen: set[tuple[int, int]] = set()
    for found in _walk(os.open(path, _DIRECTORY), MAX_DEPTH):
        if stat.S_ISDIR(found.st_mode):
            continue
        if found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        files, size, disk = files + 1, size + found.st_size, disk + found.st_blocks * 512
    return Usage(files, size, disk)


def disk_bytes(path: str, *, at_most: int) -> int | None:
    """Return what a directory occupies on its disk; None if it holds more than ``at_most`` names.

    Raises ``OSError`` where it cannot be read.
    """
    total = 0
    with contextlib.closing(_walk(os.open(path, _DIRECTORY), MAX_DEPTH)) as found:
        for count, status in enumerate(found, 1):
            if count > at_most:
                return None
            total += status.st_blocks * 512
    return total


def _walk(fd: int, depth: int) -> Generator[os.stat_result, None, None]:
    """Yield the status of everything beneath a directory; closes ``fd``."""
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has changed
                    found = entry.stat(follow_symlinks=False)
                    yield found
                    if stat.S_ISDIR(found.st_mode) and depth > 0:
                        yield from _walk(os.open(entry.name, _DIRECTORY, dir_fd=fd), depth - 1)
    finally:
        os.close(fd)
