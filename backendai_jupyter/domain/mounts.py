"""Where a kernel shows a virtual folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from backendai_jupyter.domain.options import MountOption
from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.domain.wire import Mount

HOME = PurePosixPath("/home/work")


def mount_of(folder: VFolder, option: MountOption | None = None) -> Mount:
    """Return the mount of a folder, under its own name unless ``option`` says otherwise."""
    option = option or MountOption(folder.name)
    return Mount(
        source=folder.path,
        target=str(HOME / (option.alias or folder.name)),
        readonly=folder.readonly or option.readonly,
        vfolder_id=folder.id,
        vfolder_name=folder.name,
        vfolder_host=folder.host,
    )
