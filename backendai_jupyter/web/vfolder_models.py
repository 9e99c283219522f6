"""What the REST API says of virtual folders, and what it takes: models, as in ``models``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel

from backendai_jupyter.domain import records
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.manager import uploads
from backendai_jupyter.manager.vfolders import LISTED, HostState
from backendai_jupyter.storage import listing, trees
from backendai_jupyter.web.models import Model
from backendai_jupyter.web.operation import Bytes

MAX_UPLOAD_BYTES = 1 << 53  # what JavaScript can count


class Asked(BaseModel):
    """A part of a request: what it does not know, it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Model):
    """What a folder holds; a file with several names counts once."""

    files: int
    size_bytes: int = Field(description="as the files say")
    disk_bytes: int = Field(description="as they occupy on their host")


class VFolder(Model):
    """A virtual folder."""

    id: str
    name: str
    owner: str = Field(description="id of the user")
    host: str
    permission: Permission
    status: VFolderStatus
    created_at: float
    trashed_at: float | None
    usage: Usage | None = Field(description="null if not asked for, or if its host is away")


class VFolderList(RootModel[list[VFolder]]):
    """Virtual folders, by name."""


class VFolderHost(Model):
    """A mount point that holds folders."""

    name: str
    path: str
    is_default: bool
    total_bytes: int | None = Field(description="null while it does not answer")
    free_bytes: int | None


class VFolderHostList(RootModel[list[VFolderHost]]):
    """The hosts that this server has."""


class VFolderFilter(Asked):
    """Which folders to list."""

    status: list[VFolderStatus] = Field(
        default=sorted(LISTED), description="only these, given once for each"
    )
    usage: bool = Field(default=False, description="also measure each: it takes its time")


class NewVFolder(Asked):
    """A folder to be made."""

    name: str
    host: str | None = Field(default=None, description="null: the default one")
    permission: Permission = Permission.READ_WRITE


class VFolderChange(Asked):
    """What to change of a folder; null: leave it."""

    name: str | None = None
    permission: Permission | None = None


class Restoration(Asked):
    """How to take a folder out of the trash."""

    name: str | None = Field(default=None, description="null: the one that it had")


class FilePath(Asked):
    """Which file of a folder."""

    path: str = Field(description="from the folder down, e.g. `reports/may.csv`")


class DirectoryPath(Asked):
    """Which directory of a folder."""

    path: str = Field(default="", description="from the folder down; empty: the folder itself")


class Entry(Model):
    """What is in a directory."""

    name: str
    kind: listing.Kind
    size_bytes: int
    modified_at: float


class EntryList(RootModel[list[Entry]]):
    """What is in a directory, by name, hidden files too."""


class FileContent(Bytes):
    """The file, or the range of it that was asked for."""


class UploadContent(Bytes):
    """What follows on the bytes that are there already."""

    media_type = "application/offset+octet-stream"


class UploadLength(Asked):
    """The size of a file to be uploaded, and what its client wants to remember of it."""

    length: Annotated[int, Field(alias="Upload-Length", ge=0, le=MAX_UPLOAD_BYTES)]
    metadata: Annotated[str, Field(alias="Upload-Metadata", max_length=4096)] = ""


class UploadOffset(Asked):
    """How much of a file its client believes to be there, and how much it sends."""

    offset: Annotated[int, Field(alias="Upload-Offset", ge=0, le=MAX_UPLOAD_BYTES)]
    count: Annotated[int, Field(alias="Content-Length", ge=0)] = 0


class Upload(Model):
    """A file on its way into a folder."""

    id: str
    path: str
    length: int
    offset: int = Field(description="how much of it is there")
    metadata: str
    expires_at: float


class UploadList(RootModel[list[Upload]]):
    """The uploads into a folder that are not finished."""


def vfolder_of(folder: records.VFolder, measured: trees.Usage | None = None) -> VFolder:
    usage = None if measured is None else Usage.model_validate(measured, from_attributes=True)
    return VFolder(
        id=folder.id,
        name=folder.name,
        owner=folder.owner,
        host=folder.host,
        permission=folder.permission,
        status=folder.status,
        created_at=folder.created_at,
        trashed_at=folder.trashed_at,
        usage=usage,
    )


def host_of(state: HostState) -> VFolderHost:
    return VFolderHost(
        name=state.name,
        path=state.path,
        is_default=state.is_default,
        total_bytes=state.space.total if state.space else None,
        free_bytes=state.space.free if state.space else None,
    )


def entry_of(entry: listing.Entry) -> Entry:
    return Entry.model_validate(entry, from_attributes=True)


def upload_of(upload: uploads.Upload) -> Upload:
    return Upload.model_validate(upload, from_attributes=True)
