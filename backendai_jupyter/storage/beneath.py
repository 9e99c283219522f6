"""Find what a path means beneath a viewer's folders, whatever kernels do to it meanwhile.

A kernel may plant symbolic links in its folders and swap directories for links while we
look.  So nothing here trusts the text of a path: ``Home.spot`` walks it name by name with
descriptors of directories, never lets the system follow a link, and follows links by hand,
as the kernel would see them.  A relative link stays below ``/home/work``, where folders are
neighbours; an absolute one that begins with ``/home/work/`` means the same there and here;
every other one leads out and is refused.  What is found is held open, so that it cannot be
swapped any more, and is used by its last name relative to its directory, links not
followed.

The idea is that of ``openat2(2)`` with ``RESOLVE_BENEATH``, which knows no second folder
and no absolute link.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.errors import NotFound, Refused, Unavailable
from backendai_jupyter.storage.hosts import VFolderHost

HOME = ("home", "work")  # where kernels see folders
MAX_LINKS = 40  # in one path, as in Linux
MAX_NAME_BYTES = 255  # of common file systems
MAX_DEPTH = 256  # directories below one another; programs may nest deeper, people do not

_ENTER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a folder, whether or not there is anything.

    ``dir_fd`` is open while the spot is in use, and ``name`` is to be used relative to it
    only, with links not followed.  ``names`` is the path in the folder with all links
    resolved.
    """

    folder: VFolder
    host: VFolderHost
    names: tuple[str, ...]
    dir_fd: int
    name: str
    owner: tuple[int, int]  # uid and gid as which kernels use the folder

    @property
    def path(self) -> str:
        """What the file browser calls it."""
        return "/".join((self.folder.name, *self.names))

    def status(self) -> os.stat_result:
        """Return what is there, a link as itself; raises ``NotFound``."""
        try:
            return os.stat(self.name, dir_fd=self.dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound(f"There is no {self.path!r}.") from None

    def exists(self) -> bool:
        try:
            self.status()
        except NotFound:
            return False
        return True


class Home:
    """The folders that one viewer has at one moment, by name: his ``/home/work``."""

    def __init__(self, folders: Iterable[VFolder], hosts: Mapping[str, VFolderHost]) -> None:
        self.folders = MappingProxyType({folder.name: folder for folder in folders})
        self._hosts = hosts

    def has(self, names: Sequence[str]) -> bool:
        """Whether the folder is there that a path of these names begins with."""
        return not names or unicodedata.normalize("NFC", names[0]) in self.folders

    def folder(self, name: str) -> VFolder:
        folder = self.folders.get(unicodedata.normalize("NFC", name))
        if folder is None:
            raise NotFound(f"There is no folder {name!r}.")
        return folder

    @contextmanager
    def spot(self, names: Sequence[str], *, follow: bool = True) -> Iterator[Spot]:
        """Walk ``names``, a folder's first, and hold what they lead to; blocks.

        The last of them need not exist.  Without ``follow`` a link there is the spot itself.
        Raises ``NotFound`` where there is no such place or a link leads out of all folders,
        and ``Unavailable`` where a folder's host does not answer.
        """
        walk = _Walk(self, names)
        try:
            yield walk.to_end(follow=follow)
        finally:
            walk.close()

    def host_of(self, folder: VFolder) -> VFolderHost:
        host = self._hosts.get(folder.host)
        if host is None:
            raise Unavailable(
                f"The folder {folder.name!r} is on the host {folder.host!r}, which this server "
                "does not have; see BackendAI.vfolder_hosts."
            )
        return host


class _Walk:
    """One path on its way; ``stack`` holds the directories from the folder's own down."""

    def __init__(self, home: Home, names: Sequence[str]) -> None:
        self._home = home
        self._asked = "/".join(names)
        self._pending = deque(names)
        self._stack: list[tuple[str, int]] = []
        self._folder: VFolder | None = None
        self._owner = (0, 0)
        self._links = 0

    def to_end(self, *, follow: bool) -> Spot:
        while self._pending:
            name = self._pending.popleft()
            last = not self._pending
            if name in {"", "."}:
                continue
            if name == "..":
                self._go_up()
            elif not self._stack:
                self._enter_folder(name)
            elif (spot := self._step(name, last=last, follow=follow)) is not None:
                return spot
        if not self._stack:
            raise NotFound(f"{self._asked!r} is not a path in a folder.")
        name, _ = self._stack[-1]
        if len(self._stack) == 1:
            return self._spot((), self._stack[0][1], ".")
        return self._spot(self._names(), self._stack[-2][1], name)

    def close(self) -> None:
        for _, fd in self._stack:
            os.close(fd)
        self._stack.clear()

    def _go_up(self) -> None:
        if not self._stack:
            raise self._out()
        _, fd = self._stack.pop()
        os.close(fd)

    def _enter_folder(self, name: str) -> None:
        self._folder = self._home.folder(name)
        try:
            fd = os.open(self._folder.path, _ENTER | os.O_DIRECTORY)
        except OSError as error:
            raise Unavailable(
                f"The folder {name!r} cannot be opened on this server: {error.strerror}."
            ) from error
        self._stack.append((self._folder.name, fd))
        found = os.fstat(fd)
        self._owner = (found.st_uid, found.st_gid)

    def _step(self, name: str, *, last: bool, follow: bool) -> Spot | None:
        """Go one name further; return the spot if this is the end."""
        parent = self._stack[-1][1]
        if len(self._stack) > MAX_DEPTH:
            raise NotFound("There is no path that deep.")
        if not _is_name(name):
            raise NotFound(f"{name!r} cannot be the name of a file.")
        here = self._spot((*self._names(), name), parent, name)
        if last and not follow:
            return here
        try:
            fd = os.open(name, _ENTER, dir_fd=parent)
        except FileNotFoundError:
            if last:
                return here
            raise NotFound(f"There is no directory {here.path!r}.") from None
        except PermissionError:
            raise Refused(f"This server may not open {here.path!r}.") from None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                self._follow(os.readlink("", dir_fd=fd))
            elif last:
                return here
            elif stat.S_ISDIR(mode):
                self._stack.append((name, fd))
                fd = -1
            else:
                raise NotFound(f"{here.path!r} is not a directory.")
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _follow(self, target: str) -> None:
        self._links += 1
        if self._links > MAX_LINKS:
            raise NotFound(f"{self._asked!r} leads through too many symbolic links.")
        names = target.split("/")
        if target.startswith("/"):
            names = [name for name in names if name not in {"", "."}]
            if tuple(names[: len(HOME)]) != HOME:
                raise self._out()
            self.close()
            names = names[len(HOME) :]
        self._pending.extendleft(reversed(names))

    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._stack[1:])

    def _spot(self, names: tuple[str, ...], dir_fd: int, name: str) -> Spot:
        assert self._folder is not None
        host = self._home.host_of(self._folder)
        return Spot(self._folder, host, names, dir_fd, name, self._owner)

    def _out(self) -> NotFound:
        return NotFound(f"{self._asked!r} leads out of the folders, which is not allowed.")


def _is_name(name: str) -> bool:
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    return length <= MAX_NAME_BYTES and "\0" not in name and "/" not in name
