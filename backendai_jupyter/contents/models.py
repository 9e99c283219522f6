"""What Jupyter's contents API says of folders, directories and files.

See https://jupyter-server.readthedocs.io/en/latest/developers/contents.html.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import mimetypes
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.errors import BackendError, InvalidInput
from backendai_jupyter.storage.beneath import Home, Spot
from backendai_jupyter.storage.files import may_write, open_directory
from backendai_jupyter.storage.listing import is_speakable

Model = dict[str, Any]

_SHOWN = {stat.S_IFREG, stat.S_IFDIR}
_MIMETYPE_OF_FORMAT = {"text": "text/plain", "base64": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file as the API hands them out; ``raw`` are the bytes themselves."""

    text: str
    format: str  # ``text`` or ``base64``
    raw: bytes


def file_model(path: str, found: os.stat_result, *, writable: bool) -> Model:
    """Return the model of a file or notebook without its content."""
    name = path.rpartition("/")[2]
    kind = "notebook" if name.endswith(".ipynb") else "file"
    model = _base(path, kind, writable=writable)
    model.update(
        size=found.st_size, created=_time(found.st_ctime), last_modified=_time(found.st_mtime)
    )
    if kind == "file":
        model["mimetype"] = mimetypes.guess_type(name)[0]
    return model


def directory_model(path: str, found: os.stat_result, *, writable: bool) -> Model:
    model = _base(path, "directory", writable=writable)
    model.update(created=_time(found.st_ctime), last_modified=_time(found.st_mtime))
    return model


def folder_model(folder: VFolder) -> Model:
    """Return the model of a folder as such; one whose host is away has its birthday only."""
    model = _base(folder.name, "directory", writable=not folder.readonly)
    created = _time(folder.created_at)
    model.update(created=created, last_modified=created)
    with contextlib.suppress(OSError):
        model["last_modified"] = _time(os.stat(folder.path).st_mtime)  # noqa: PTH116
    return model


def root_model(folders: Iterable[VFolder], *, content: bool) -> Model:
    """Return the list of folders."""
    model = _base("", "directory", writable=True)
    folders = list(folders)
    born = _time(max((folder.created_at for folder in folders), default=0.0))
    model.update(created=born, last_modified=born)
    if content:
        fill(model, (folder_model(folder) for folder in folders))
    return model


def model_of(spot: Spot, path: str, found: os.stat_result) -> Model:
    """Return the model without content of what ``path`` has led to."""
    writable = not spot.folder.readonly and may_write(found)
    if not stat.S_ISDIR(found.st_mode):
        return file_model(path, found, writable=writable)
    if spot.names or path != spot.folder.name:
        return directory_model(path, found, writable=writable)
    return folder_model(spot.folder)


def fill(model: Model, entries: Iterable[Model]) -> None:
    """Make ``model`` the model of a directory with its content."""
    model.update(format="json", content=list(entries))


def entries_of(
    home: Home, spot: Spot, path: str, *, shown: Callable[[str], bool]
) -> Iterator[Model]:
    """Yield the models of what a directory holds; blocks.

    Left out are what ``shown`` refuses, links that lead nowhere or out, and what is neither
    file nor directory.
    """
    fd = open_directory(spot)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not is_speakable(entry.name) or not shown(entry.name):
                    continue
                model = _entry(home, spot, f"{path}/{entry.name}", entry)
                if model is not None:
                    yield model
    finally:
        os.close(fd)


def encoded(raw: bytes, format: str | None, *, path: str) -> Content:
    """Return bytes as ``format``: None means text where that is possible.

    Raises ``InvalidInput`` for text that is not UTF-8.
    """
    if format != "base64":
        try:
            return Content(raw.decode(), "text", raw)
        except UnicodeDecodeError:
            if format == "text":
                raise InvalidInput("format", f"{path!r} is not UTF-8 encoded") from None
    return Content(base64.encodebytes(raw).decode("ascii"), "base64", raw)


def decoded(content: object, format: object) -> bytes:
    """Return the bytes of a model's content; raises ``InvalidInput`` naming the field."""
    if format not in {"text", "base64"}:
        raise InvalidInput("format", f"{format!r} is neither 'text' nor 'base64'")
    if not isinstance(content, str):
        raise InvalidInput("content", "expected a string")
    try:
        return content.encode() if format == "text" else binascii.a2b_base64(content)
    except ValueError as error:
        raise InvalidInput("content", f"not valid {format}: {error}") from None


def add_content(model: Model, content: Content) -> None:
    model.update(content=content.text, format=content.format)
    model["mimetype"] = model["mimetype"] or _MIMETYPE_OF_FORMAT[content.format]


def add_hash(model: Model, raw: bytes, algorithm: str) -> None:
    model.update(hash=hashlib.new(algorithm, raw).hexdigest(), hash_algorithm=algorithm)


def _entry(home: Home, spot: Spot, path: str, entry: os.DirEntry[str]) -> Model | None:
    try:
        if entry.is_symlink():
            with home.spot((spot.folder.name, *spot.names, entry.name)) as target:
                return _shown(target, path, target.status())
        return _shown(spot, path, entry.stat(follow_symlinks=False))
    except (OSError, BackendError):  # gone meanwhile, or a link that nobody may follow
        return None


def _shown(spot: Spot, path: str, found: os.stat_result) -> Model | None:
    if stat.S_IFMT(found.st_mode) not in _SHOWN:
        return None
    writable = not spot.folder.readonly and may_write(found)
    make = directory_model if stat.S_ISDIR(found.st_mode) else file_model
    return make(path, found, writable=writable)


def _base(path: str, kind: str, *, writable: bool) -> Model:
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "type": kind,
        "writable": writable,
        "created": None,
        "last_modified": None,
        "size": None,
        "mimetype": None,
        "content": None,
        "format": None,
        "hash": None,
        "hash_algorithm": None,
    }


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a program may write any time into a file
        return datetime.fromtimestamp(0, UTC)
