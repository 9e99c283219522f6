"""Read and change one file or directory at a spot; every function blocks.

A privileged server acts for kernels that are not, so what it makes belongs to the folder's
owner, and it changes nothing that the kernels themselves could not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from backendai_jupyter.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from backendai_jupyter.storage.beneath import Spot
from backendai_jupyter.storage.removal import discard

COPY_BYTES = 8 << 20  # at a time, inside the kernel of Linux

_RENAME_NOREPLACE = 1  # linux/fs.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_NOT_A_FILE = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
}


@contextmanager
def sentences(spot: Spot) -> Iterator[None]:
    """Turn what the system answers about ``spot`` into errors of ours."""
    try:
        yield
    except OSError as error:
        raise _said(error, spot.path) from error


def open_to_read(spot: Spot) -> int:
    """Return a descriptor of the regular file at ``spot``; its offset is 0.

    Raises ``NotFound``, ``InvalidInput`` for anything that is no regular file, and
    ``Refused`` for a hard link to a file that the folder's owner does not own: only somebody
    who could read it already may have put it there on purpose.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with sentences(spot):
        try:
            fd = os.open(spot.name, flags, dir_fd=spot.dir_fd)
        except OSError as error:
            if error.errno in {errno.ENXIO, errno.ELOOP}:  # a socket; a link that just came
                check_regular(spot, spot.status())
            raise
    try:
        found = os.fstat(fd)
        check_regular(spot, found)
        check_own(spot, found)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def reading(spot: Spot) -> Iterator[FileIO]:
    with os.fdopen(open_to_read(spot), "rb", buffering=0) as file:
        yield file


def open_directory(spot: Spot) -> int:
    """Return a descriptor of the directory at ``spot`` that can be listed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with sentences(spot):
        return os.open(spot.name, flags, dir_fd=spot.dir_fd)


@contextmanager
def replacing(spot: Spot) -> Iterator[BinaryIO]:
    """Write a new file that takes the place of what is at ``spot`` when it is complete.

    Until then nothing is seen of it, and if anything goes wrong the old file stays.  It gets
    the mode of the old one.
    """
    old = writable_file(spot)
    staged = Staged(spot)
    try:
        with sentences(spot), os.fdopen(staged.create(), "wb") as file:
            yield file
            file.flush()
            staged.finish(file.fileno(), old)
        staged.move_to(spot, replace=True)
    finally:
        staged.discard()


def adopt(path: Path, spot: Spot) -> None:
    """Let a complete file of the managers' own take the place of what is at ``spot``.

    It gets what ``replacing`` gives a file.  If anything goes wrong it stays where it was.
    """
    old = writable_file(spot)
    staged = Staged(spot)
    try:
        with sentences(spot), path.open("rb") as file:
            staged.finish(file.fileno(), old)
            try:
                os.rename(path, spot.name, dst_dir_fd=spot.dir_fd)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with replacing(spot) as copy:  # a link has led to a folder on another host
                    copy_bytes(file.fileno(), copy.fileno())
                path.unlink()
    finally:
        staged.discard()


def make_directory(spot: Spot) -> None:
    """Make a directory where there is nothing; raises ``Conflict`` where there is."""
    check_may_change(spot)
    with sentences(spot):
        os.mkdir(spot.name, 0o777, dir_fd=spot.dir_fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(spot.name, flags, dir_fd=spot.dir_fd)
        try:
            # It may have been swapped since: only what is ours is given away.
            if os.fstat(fd).st_uid == os.geteuid() == 0:
                os.fchown(fd, *spot.owner)
        finally:
            os.close(fd)


def rename(old: Spot, new: Spot) -> None:
    """Move what is at ``old``, a link as a link; raises ``Conflict`` if ``new`` is taken.

    Raises ``OSError`` with ``EXDEV`` where the two are on different file systems.
    """
    check_may_change(old)
    check_may_change(new)
    old.status()
    with sentences(new):
        try:
            _rename_if_absent(old.dir_fd, old.name, new.dir_fd, new.name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise CrossDevice from error


class CrossDevice(Exception):
    """Two places are on different file systems; what is there must be copied."""


class Staged:
    """A file or directory in the making, where neither kernels nor the file browser see it."""

    def __init__(self, spot: Spot) -> None:
        self._owner = spot.owner
        self.name = secrets.token_hex(16)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.dir_fd = os.open(spot.host.staging, flags)
        except OSError as error:
            raise Unavailable(
                f"The vfolder host {spot.host.name!r} does not answer: {error.strerror}."
            ) from error

    def create(self) -> int:
        """Make the file and return a descriptor to write it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.name, flags, 0o666, dir_fd=self.dir_fd)

    def finish(self, fd: int, old: os.stat_result | None) -> None:
        """Let the complete file resemble the one it replaces, and be safe on disk."""
        if os.geteuid() == 0:
            os.fchown(fd, *self._owner)
        if old is not None:
            os.fchmod(fd, old.st_mode & 0o777)  # neither setuid nor setgid: the content is new
        os.fsync(fd)

    def move_to(self, spot: Spot, *, replace: bool) -> None:
        """Put it where it belongs; raises ``Conflict`` if that is taken, unless it replaces."""
        with sentences(spot):
            if replace:
                os.rename(self.name, spot.name, src_dir_fd=self.dir_fd, dst_dir_fd=spot.dir_fd)
            else:
                _rename_if_absent(self.dir_fd, self.name, spot.dir_fd, spot.name)

    def discard(self) -> None:
        """Remove what was not moved; the end of a staged thing."""
        try:
            discard(self.name, self.dir_fd)
        finally:
            os.close(self.dir_fd)


def writable_file(spot: Spot) -> os.stat_result | None:
    """Return the regular file that may be replaced at ``spot``, or None if there is nothing.

    Raises ``Refused`` where it or the folder is read-only, ``InvalidInput`` for what is no
    file.
    """
    check_may_change(spot)
    try:
        found = spot.status()
    except NotFound:
        return None
    check_regular(spot, found)
    if not may_write(found):
        raise Refused(f"{spot.path!r} is read-only.")
    return found


def check_may_change(spot: Spot) -> None:
    """Raise ``Refused`` unless entries may be made and removed where ``spot`` is."""
    if spot.folder.readonly:
        raise Refused(f"The folder {spot.folder.name!r} is read-only.")
    if spot.name == ".":
        raise InvalidInput("path", f"{spot.path!r} is a folder and not in one")
    if not may_write(os.fstat(spot.dir_fd)):
        directory = spot.path.rpartition("/")[0]
        raise Refused(f"The directory {directory!r} is read-only.")


def check_regular(spot: Spot, found: os.stat_result) -> None:
    """Raise ``InvalidInput`` for anything but a regular file."""
    if not stat.S_ISREG(found.st_mode):
        what = _NOT_A_FILE.get(stat.S_IFMT(found.st_mode), "not a file")
        raise InvalidInput("path", f"{spot.path!r} is {what} and not a regular file")


def check_own(spot: Spot, found: os.stat_result) -> None:
    """Raise ``Refused`` for a second name of a file that is not the folder owner's."""
    if found.st_nlink > 1 and found.st_uid != spot.owner[0]:
        raise Refused(f"{spot.path!r} is a hard link to a file that somebody else owns.")


def may_write(found: os.stat_result) -> bool:
    """Whether whoever owns it may write to it: what is read-only stays so, also for root.

    Whose it is does not matter, because who may write to a directory may replace any file.
    """
    return bool(found.st_mode & stat.S_IWUSR)


def copy_bytes(source_fd: int, target_fd: int) -> None:
    """Copy a file from its current offset to its end, inside the system where it can."""
    copy: Callable[[int, int, int], int] = os.copy_file_range
    while True:
        try:
            if copy(source_fd, target_fd, COPY_BYTES) == 0:
                return
        except OSError as error:
            if copy is _sendfile or error.errno not in {
                errno.EXDEV,
                errno.EINVAL,
                errno.ENOSYS,
                errno.EOPNOTSUPP,
            }:
                raise
            copy = _sendfile


def _sendfile(source_fd: int, target_fd: int, count: int) -> int:
    return os.sendfile(target_fd, source_fd, None, count)


def _rename_if_absent(old_dir: int, old: str, new_dir: int, new: str) -> None:
    """Rename unless ``new`` exists, in one step where the file system has that."""
    arguments = (old_dir, os.fsencode(old), new_dir, os.fsencode(new), _RENAME_NOREPLACE)
    if _LIBC.renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    if code not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(code, os.strerror(code))
    with contextlib.suppress(FileNotFoundError):
        os.stat(new, dir_fd=new_dir, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)


def _said(error: OSError, path: str) -> Exception:
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"There is no {path!r}.")
        case errno.EEXIST | errno.ENOTEMPTY:
            return Conflict(f"There is something named {path!r} already.")
        case errno.ELOOP | errno.ENOTDIR | errno.EISDIR | errno.ESTALE:
            return Conflict(f"{path!r} has changed meanwhile; try again.")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Refused(f"This server may not do that to {path!r}: {error.strerror}.")
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable(f"There is no room left for {path!r}.")
        case errno.ENAMETOOLONG:
            return InvalidInput("path", f"the name of {path!r} is too long")
        case errno.EINVAL:
            return InvalidInput("path", f"a directory cannot be moved into itself: {path!r}")
        case _:
            return Unavailable(f"{path!r} could not be used: {error.strerror}.")
