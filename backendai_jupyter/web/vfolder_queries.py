"""Questions about virtual folders, for a server and for commands that run without one.

Run them on the event loop on which the folders' database lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backendai_jupyter.domain.records import VFolder as Folder
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.uploads import names_in, open_home
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.storage import listing
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.web.vfolder_models import (
    EntryList,
    VFolder,
    VFolderFilter,
    VFolderHostList,
    VFolderList,
    entry_of,
    host_of,
    vfolder_of,
)


async def read_vfolders(vfolders: VFolders, wanted: VFolderFilter, viewer: Viewer) -> VFolderList:
    found = await vfolders.list(viewer, statuses=wanted.status)
    if not wanted.usage:
        return VFolderList([vfolder_of(folder) for folder in found])
    return VFolderList([await measured(vfolders, folder) for folder in found])


async def read_vfolder(vfolders: VFolders, ref: str, viewer: Viewer) -> VFolder:
    return await measured(vfolders, await vfolders.get(ref, viewer))


async def measured(vfolders: VFolders, folder: Folder) -> VFolder:
    """Return a folder with its usage, or without where its host does not answer."""
    try:
        return vfolder_of(folder, await vfolders.usage(folder))
    except Unavailable:
        return vfolder_of(folder)


async def read_hosts(vfolders: VFolders) -> VFolderHostList:
    return VFolderHostList([host_of(state) for state in await vfolders.host_states()])


async def read_directory(vfolders: VFolders, ref: str, path: str, viewer: Viewer) -> EntryList:
    home, folder = await open_home(vfolders, ref, viewer)
    found = await asyncio.to_thread(_entries, home, names_in(folder, path))
    return EntryList([entry_of(entry) for entry in found])


async def make_directory(vfolders: VFolders, ref: str, path: str, viewer: Viewer) -> None:
    home, folder = await open_home(vfolders, ref, viewer)
    await asyncio.to_thread(listing.make_directories, home, names_in(folder, path))


def _entries(home: Home, names: Sequence[str]) -> list[listing.Entry]:
    with home.spot(names) as spot:
        return listing.entries(spot)
