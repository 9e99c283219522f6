"""What the contents manager does on disk, one operation each; all block and run in threads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Hashable, Sequence

from backendai_jupyter.contents import models
from backendai_jupyter.contents.models import Model
from backendai_jupyter.contents.uploads import ChunkedUploads
from backendai_jupyter.errors import BackendError, Conflict
from backendai_jupyter.storage import files, trees
from backendai_jupyter.storage.beneath import Home


def status(home: Home, names: Sequence[str]) -> os.stat_result:
    with home.spot(names) as spot:
        return spot.status()


def describe(home: Home, names: Sequence[str], algorithm: str | None = None) -> Model:
    """Return the model of what is there, without its content; a file's with a hash if asked."""
    path = "/".join(names)
    with home.spot(names) as spot:
        found = spot.status()
        if stat.S_ISDIR(found.st_mode):
            return models.model_of(spot, path, found)
        with files.reading(spot) as file:
            model = models.model_of(spot, path, os.fstat(file.fileno()))
            if algorithm is not None:
                digest = hashlib.file_digest(file, algorithm).hexdigest()
                model.update(hash=digest, hash_algorithm=algorithm)
        return model


def read(
    home: Home, names: Sequence[str], *, shown: Callable[[str], bool]
) -> tuple[Model, bytes | None]:
    """Return the model and the bytes of a file, or the model of a directory with its entries.

    ``shown`` says which names are listed.
    """
    path = "/".join(names)
    with home.spot(names) as spot:
        found = spot.status()
        if stat.S_ISDIR(found.st_mode):
            model = models.model_of(spot, path, found)
            models.fill(model, models.entries_of(home, spot, path, shown=shown))
            return model, None
        with files.reading(spot) as file:
            return models.model_of(spot, path, os.fstat(file.fileno())), file.read()


def write(home: Home, names: Sequence[str], data: bytes) -> Model:
    """Replace a file, or make one; return its model."""
    with home.spot(names) as spot:
        with files.replacing(spot) as file:
            file.write(data)
        return models.model_of(spot, "/".join(names), spot.status())


def add_chunk(
    uploads: ChunkedUploads,
    home: Home,
    names: Sequence[str],
    key: Hashable,
    chunk: int,
    data: bytes,
) -> Model:
    with home.spot(names) as spot:
        found = uploads.add(spot, key, chunk, data)
        return models.file_model("/".join(names), found, writable=True)


def make_directory(home: Home, names: Sequence[str]) -> None:
    """Make a directory, unless there is one."""
    with home.spot(names) as spot:
        try:
            files.make_directory(spot)
        except Conflict:
            if not stat.S_ISDIR(spot.status().st_mode):
                raise


def remove(home: Home, names: Sequence[str]) -> None:
    """Remove what is there; a link and not what it leads to."""
    _check_visible(home, names)
    with home.spot(names, follow=False) as spot:
        trees.remove(spot)


def move(home: Home, old: Sequence[str], new: Sequence[str]) -> None:
    _check_visible(home, old)
    with home.spot(old, follow=False) as source, home.spot(new, follow=False) as target:
        trees.move(source, target)


def _check_visible(home: Home, names: Sequence[str]) -> None:
    """Raise an error for what the file browser does not show, such as a link that leads out."""
    with home.spot(names) as spot:
        found = spot.status()
        if not stat.S_ISDIR(found.st_mode):
            files.check_regular(spot, found)


def copy(home: Home, old: Sequence[str], new: Sequence[str]) -> None:
    with home.spot(old) as source, home.spot(new, follow=False) as target:
        trees.copy(source, target)


def fill(home: Home, old: Sequence[str], new: Sequence[str]) -> None:
    """Copy all that is in one directory into another, which is empty."""
    with home.spot(old) as source, home.spot(new) as target:
        trees.fill(source, target)


def directory_on_host(home: Home, names: Sequence[str]) -> str | None:
    """Return the host's path of a directory, or None if there is none."""
    try:
        with home.spot(names) as spot:
            if stat.S_ISDIR(spot.status().st_mode):
                return "/".join((spot.folder.path, *spot.names))
    except BackendError:
        pass
    return None


def path_on_host(home: Home, names: Sequence[str]) -> str:
    """Return the host's path of what ``names`` leads to, for an administrator's hooks."""
    with home.spot(names) as spot:
        return "/".join((spot.folder.path, *spot.names))


def open_file(home: Home, names: Sequence[str]) -> int:
    """Return a descriptor of a regular file, to be read."""
    with home.spot(names) as spot:
        return files.open_to_read(spot)
