"""Where a path of the file browser leads: the viewer's folders as the branches of one tree."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and the names that lead on from there; without names, the folder itself."""

    folder: VFolder
    inside: tuple[str, ...]

    def on_disk(self) -> str:
        """Return the path on this host; raises ``NotFound`` if a symlink leads out of the folder.

        A kernel may swap a directory for a symlink between this check and the use of the
        path.  Against that it does not protect.
        """
        path = self.folder.path
        linked = False
        for name in self.inside:
            path = f"{path}/{name}"
            linked = linked or os.path.islink(path)  # noqa: PTH114 - it is done for each file
        if linked and not _is_beneath(os.path.realpath(path), os.path.realpath(self.folder.path)):
            name = "/".join((self.folder.name, *self.inside))
            raise NotFound(f"{name!r} leads out of its folder.")
        return path


class Tree:
    """The folders of one viewer at one moment, by name."""

    def __init__(self, folders: Iterable[VFolder]) -> None:
        self.folders = MappingProxyType({folder.name: folder for folder in folders})

    def locate(self, path: str) -> Place | None:
        """Return the place of a contents path, None for the root; raises ``NotFound``."""
        names = split(path)
        if not names:
            return None
        folder = self.folders.get(unicodedata.normalize("NFC", names[0]))
        if folder is None:
            raise NotFound(f"There is no folder {names[0]!r}.")
        return Place(folder, names[1:])

    def first(self) -> VFolder:
        """Return the folder for what is made at the root; raises ``Conflict`` without one."""
        for folder in self.folders.values():
            return folder
        raise Conflict("You have no folder yet. Create one first: a new directory at the top.")

    def folder_of(self, os_path: str) -> VFolder:
        """Return the folder that a path of this host is in; raises ``NotFound``."""
        for folder in self.folders.values():
            if _is_beneath(os_path, folder.path):
                return folder
        raise NotFound(f"{PurePath(os_path).name!r} is in no folder.")

    def path_of(self, os_path: str) -> str:
        """Return how the file browser calls a path of this host; never the host's own path."""
        try:
            folder = self.folder_of(os_path)
        except NotFound:
            return PurePath(os_path).name
        return folder.name + os_path[len(folder.path) :]


def split(path: str) -> tuple[str, ...]:
    """Return the names in a contents path; raises ``NotFound`` for one that no file can have."""
    names = tuple(name for name in path.split("/") if name not in {"", "."})
    if ".." in names or "\0" in path or not is_speakable(path):
        raise NotFound(f"{path!r} is not a path.")
    return names


def is_speakable(name: str) -> bool:
    """Whether a name can be said in JSON and in a URL: not every file of Linux has one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_beneath(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
