"""Virtual folders: the rows, their directories on a host, their mounts in kernels."""

from __future__ import annotations

import asyncio
import logging
import os
import unicodedata
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backendai_jupyter.domain.mounts import HOME, mount_of
from backendai_jupyter.domain.options import MountOption
from backendai_jupyter.domain.records import SYSTEM, VFolder, Viewer
from backendai_jupyter.domain.vfolders import (
    UNNAMED_DIRECTORY,
    Permission,
    VFolderStatus,
    check_name,
)
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import (
    BackendError,
    Conflict,
    InDoubt,
    InvalidInput,
    NotFound,
    Unavailable,
)
from backendai_jupyter.storage import trees
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.hosts import Space, VFolderHost, prepare_all, read_markers
from backendai_jupyter.storage.removal import remove_path, sweep
from backendai_jupyter.store.hosts import VFolderHostStore
from backendai_jupyter.store.vfolders import VFolderStore

log = logging.getLogger(__name__)

FIRST_FOLDER = "data"
# What can still be seen of a folder, and what can be asked for by name.
LISTED = frozenset({VFolderStatus.READY, VFolderStatus.DELETE_PENDING})


@dataclass(frozen=True, slots=True)
class HostState:
    """A host as this manager sees it; ``space`` is None while it does not answer."""

    name: str
    path: str
    is_default: bool
    space: Space | None


class VFolders:
    """What users may do with their folders.

    A folder's directory is named by its id, so that renaming it moves nothing.
    """

    def __init__(
        self,
        store: VFolderStore,
        *,
        hosts: Mapping[str, VFolderHost],
        default_host: str,
        owner_ids: tuple[int, int],
        now: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``changed`` is called when folders are, and kernels may have to show others."""
        self.version = 0  # goes up with each change that this manager knows of
        self._store = store
        self.hosts = hosts
        self._default_host = default_host
        self._owner_ids = owner_ids
        self._now = now
        self._tell = changed

    async def ensure_first(self, viewer: Viewer) -> None:
        """Give a new user one folder to start with."""
        if not await self._store.list(viewer, statuses=frozenset(VFolderStatus)):
            try:
                await self.create(FIRST_FOLDER, viewer)
            except Conflict:
                return  # another process has just done it

    async def home(self, viewer: Viewer) -> Home:
        """Return the folders that the viewer has now, to look and to write into."""
        return Home(await self._store.list(viewer), self.hosts)

    async def list(
        self, viewer: Viewer, *, statuses: Collection[VFolderStatus] = LISTED
    ) -> tuple[VFolder, ...]:
        return await self._store.list(viewer, statuses=statuses)

    async def get(self, ref: str, viewer: Viewer) -> VFolder:
        """Return the ready folder of this name, else the folder of this id."""
        try:
            return await self._store.get(ref, viewer)
        except NotFound:
            return await self._store.by_id(ref, viewer)

    async def usage(self, folder: VFolder) -> trees.Usage:
        """Measure a folder; takes as long as it has files."""
        try:
            return await asyncio.to_thread(trees.usage, folder.path)
        except OSError as error:
            raise Unavailable(
                f"The folder {folder.name!r} cannot be read on this server: {error.strerror}."
            ) from error

    async def host_states(self) -> tuple[HostState, ...]:
        spaces = [await asyncio.to_thread(_space_of, host) for host in self.hosts.values()]
        return tuple(
            HostState(host.name, str(host.root), host.name == self._default_host, space)
            for host, space in zip(self.hosts.values(), spaces, strict=True)
        )

    async def create(
        self,
        name: str,
        viewer: Viewer,
        *,
        host: str | None = None,
        permission: Permission = Permission.READ_WRITE,
    ) -> VFolder:
        """Create a folder.

        Raises ``InvalidInput`` for its name or host, ``Conflict`` if it exists.
        """
        name = check_name(name)
        where = self.hosts.get(host or self._default_host)
        if where is None:
            known = ", ".join(self.hosts)
            raise InvalidInput("host", f"there is no vfolder host {host!r}; known are {known}")
        folder_id = str(uuid.uuid4())
        path = where.folder_path(viewer.user_id, folder_id)
        await asyncio.to_thread(self._make, where, path)
        try:
            folder = await self._store.create(
                owner=viewer.user_id,
                name=name,
                host=where.name,
                path=str(path),
                now=self._now(),
                id=folder_id,
                permission=permission,
            )
        except InDoubt:
            raise  # the folder may be there, and must have its directory
        except BackendError:
            await asyncio.to_thread(path.rmdir)
            raise
        self._changed()
        return folder

    async def change(
        self,
        ref: str,
        viewer: Viewer,
        *,
        name: str | None = None,
        permission: Permission | None = None,
    ) -> VFolder:
        """Rename a folder or protect it, unless a living kernel shows it as it is."""
        folder = await self.get(ref, viewer)
        changed = await self._store.change(folder.id, viewer, name=name, permission=permission)
        self._changed()
        return changed

    async def trash(self, ref: str, viewer: Viewer) -> None:
        """Move a folder to the trash: nothing of it is lost, and no new kernel shows it."""
        folder = await self.get(ref, viewer)
        await self._store.trash(folder.id, viewer, now=self._now())
        self._changed()

    async def restore(self, ref: str, viewer: Viewer, *, name: str | None = None) -> VFolder:
        """Take a folder out of the trash, by its id or by a name that is unique there."""
        folder = await self._trashed(ref, viewer)
        restored = await self._store.restore(folder.id, viewer, name=name)
        self._changed()
        return restored

    async def purge(self, ref: str, viewer: Viewer) -> None:
        """Remove a folder of the trash with all that is in it, for good."""
        folder = await self._trashed(ref, viewer)
        await self._erase(await self._store.begin_purge(folder.id, viewer))

    async def tidy(self) -> None:
        """Finish what a killed manager has left half done on the hosts; one full pass."""
        await self.finish_purges()
        for host in self.hosts.values():
            if await asyncio.to_thread(host.staging.is_dir):
                await asyncio.to_thread(sweep, host.staging)

    async def finish_purges(self) -> None:
        """Go on where a manager was killed while it purged; one pass over all folders."""
        ongoing = frozenset({VFolderStatus.DELETE_ONGOING})
        for folder in await self._store.list(SYSTEM, statuses=ongoing):
            try:
                await self._erase(folder)
            except Unavailable as error:  # the next pass tries again; others can be finished
                log.warning("The folder %s is not purged yet: %s", folder.id, error)

    async def mounts(
        self, viewer: Viewer, wanted: Sequence[MountOption] | None
    ) -> tuple[Mount, ...]:
        """Return the mounts of those folders of the user that are there, or of those wanted.

        Raises ``InvalidInput`` for a folder that he has not, or one place for two.
        """
        folders = {folder.name: folder for folder in await self._store.list(viewer)}
        if wanted is None:
            # A folder whose host is away would keep every session from starting.
            there = await asyncio.to_thread(read_markers, self.hosts)
            wanted = [MountOption(f.name) for f in folders.values() if f.host in there]
        mounts: dict[str, Mount] = {}
        for option in dict.fromkeys(wanted):
            if option.name not in folders:
                raise InvalidInput("backendai.mounts", f"you have no folder named {option.name!r}")
            mount = mount_of(folders[option.name], option)
            if mount.target in mounts:
                raise InvalidInput("backendai.mounts", f"two folders at {mount.target}")
            mounts[mount.target] = mount
        return tuple(mounts.values())

    async def mount_of(
        self, directory: Path, viewer: Viewer, *, beside: Collection[Mount]
    ) -> Mount:
        """Return a mount that shows a directory of this machine: its folder's, if it is in one.

        So what protects a folder protects it from a batch run inside it as well.
        """
        folders = await self._store.list(viewer)
        folder = next((f for f in folders if directory.is_relative_to(_real(f.path))), None)
        name = directory.name if folder is None else folder.name
        if not name or any(mount.target == str(HOME / name) for mount in beside):
            name = UNNAMED_DIRECTORY
        if folder is not None:
            return mount_of(folder, MountOption(folder.name, name))
        return Mount(source=str(directory), target=str(HOME / name))

    def look_again(self) -> None:
        """Take note that another manager may have changed folders."""
        self.version += 1

    def _changed(self) -> None:
        self.version += 1
        self._tell()

    async def _trashed(self, ref: str, viewer: Viewer) -> VFolder:
        in_trash = await self._store.list(
            viewer, statuses=frozenset({VFolderStatus.DELETE_PENDING})
        )
        found = [f for f in in_trash if ref in {f.id, f.name}]
        if len(found) > 1:
            raise Conflict(f"There are {len(found)} folders {ref!r} in the trash; give an id.")
        if not found:
            raise NotFound(f"There is no folder {ref!r} in the trash.")
        return found[0]

    async def _erase(self, folder: VFolder) -> None:
        host = self.hosts.get(folder.host)
        if host is None:
            raise Unavailable(f"This server does not have the vfolder host {folder.host!r}.")
        await asyncio.to_thread(_remove_all, host, folder)
        await self._store.end_purge(folder.id)

    def _make(self, host: VFolderHost, path: Path) -> None:
        if host.marker() is None:
            raise Unavailable(f"The vfolder host {host.name!r} is not mounted on this server.")
        try:
            path.parent.mkdir(mode=0o711, exist_ok=True)
            path.mkdir(mode=0o770)
            if os.geteuid() == 0:
                os.chown(path, *self._owner_ids)
        except OSError as error:
            raise Unavailable(
                f"The vfolder host {host.name!r} cannot take a folder: {error.strerror}."
            ) from error


def kernel_path_of(contents_path: str, mounts: Sequence[Mount]) -> str | None:
    """Return where a kernel sees what the file browser calls ``contents_path``; None if nowhere.

    A folder that is mounted twice is seen where it was asked for first.
    """
    names = [name for name in contents_path.split("/") if name]
    if not names or ".." in names:
        return None
    folder = unicodedata.normalize("NFC", names[0])
    mount = next((m for m in mounts if m.vfolder_name == folder), None)
    return None if mount is None else str(PurePosixPath(mount.target, *names[1:]))


async def prepare_hosts(
    store: VFolderHostStore, hosts: Mapping[str, VFolderHost], *, needed: str
) -> None:
    """Make hosts ready, if they are what they were when they were used before.

    Raises ``Unavailable`` if the ``needed`` one is not; of the others it says so in the log.
    """
    known = await store.markers()
    await asyncio.to_thread(prepare_all, hosts, needed=needed, known=known)
    markers = await asyncio.to_thread(read_markers, hosts)
    if markers.keys() - known.keys():
        await store.remember(markers)


def workdir_of(contents_path: str, mounts: Sequence[Mount]) -> str:
    """Return where a kernel works for a directory of the file browser.

    A folder that is not mounted, and the list of folders itself, become the home directory.
    """
    return kernel_path_of(contents_path, mounts) or str(HOME)


def contents_path_of(path: str, mounts: Sequence[Mount]) -> str | None:
    """Return what the file browser calls an absolute path of a kernel; None if nothing."""
    wanted = PurePosixPath(os.path.normpath(path))
    for mount in mounts:
        if mount.vfolder_name and wanted.is_relative_to(mount.target):
            return str(PurePosixPath(mount.vfolder_name) / wanted.relative_to(mount.target))
    return None


def workdir_of_host(directory: Path, mounts: Sequence[Mount]) -> str | None:
    """Return where a kernel sees a host directory, or None if no mount shows it."""
    for mount in mounts:
        source = _real(mount.source)
        if directory.is_relative_to(source):
            return str(PurePosixPath(mount.target) / directory.relative_to(source))
    return None


def _real(path: str) -> str:
    """Return a host's path without links, as the working directory of a batch run is given."""
    return os.path.realpath(path)  # a few calls that the system answers from memory


def _space_of(host: VFolderHost) -> Space | None:
    if host.marker() is None:  # an empty mount point has space too, but that of another disk
        return None
    try:
        return host.space()
    except Unavailable:
        return None


def _remove_all(host: VFolderHost, folder: VFolder) -> None:
    """Remove what a host has of a folder; raises ``Unavailable`` if that cannot be done now."""
    if host.marker() is None:  # nothing to be found there does not mean that nothing is left
        raise Unavailable(f"The vfolder host {host.name!r} is not mounted on this server.")
    try:
        for path in (Path(folder.path), host.checkpoints / folder.id):
            remove_path(path, host.staging)
    except OSError as error:
        raise Unavailable(
            f"The folder {folder.name!r} could not be removed: {error.strerror}."
        ) from error
