"""List a directory at a spot, and make one with those above it; every function blocks."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from backendai_jupyter.errors import Conflict
from backendai_jupyter.storage.beneath import Home, Spot
from backendai_jupyter.storage.files import make_directory, open_directory


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"  # symbolic; wherever it leads
    OTHER = "other"  # a pipe, a socket, a device


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    kind: Kind
    size_bytes: int
    modified_at: float


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.LINK,
}


def entries(spot: Spot) -> list[Entry]:
    """Return what is in the directory at ``spot``, by name; links are not followed.

    A name that cannot be said in Unicode is left out.  Raises ``NotFound``, and ``Conflict``
    for what is no directory.
    """
    check_directory(spot)
    fd = open_directory(spot)
    found = []
    try:
        with os.scandir(fd) as listed:
            names = sorted(entry.name for entry in listed if is_speakable(entry.name))
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
                found.append(_entry(name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
    finally:
        os.close(fd)
    return found


def make_directories(home: Home, names: Sequence[str]) -> None:
    """Make a directory, and those above it that are missing; ``names`` begin with a folder.

    Succeeds if it is there; raises ``Conflict`` if something else is.
    """
    for count in range(2, len(names) + 1):
        with home.spot(names[:count]) as spot:
            with contextlib.suppress(Conflict):  # another one has just made it
                if not spot.exists():
                    make_directory(spot)
            check_directory(spot)


def check_directory(spot: Spot) -> None:
    """Raise ``Conflict`` for anything but a directory."""
    if not stat.S_ISDIR(spot.status().st_mode):
        raise Conflict(f"{spot.path!r} is not a directory.")


def _entry(name: str, found: os.stat_result) -> Entry:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), Kind.OTHER)
    return Entry(name, kind, found.st_size, found.st_mtime)


def is_speakable(name: str) -> bool:
    """Whether a name can be said in JSON and in a URL: not every file of Linux has one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
