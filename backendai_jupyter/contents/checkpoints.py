"""Checkpoints of files, kept on the folder's host where neither kernels nor file browser look."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyter_server.services.contents.checkpoints import AsyncCheckpoints

from backendai_jupyter.contents.paths import split
from backendai_jupyter.errors import NotFound
from backendai_jupyter.storage.beneath import Home, Spot
from backendai_jupyter.storage.files import copy_bytes, reading, replacing

_ONLY_ID = "checkpoint"  # one per file, as in jupyter_server


class VFolderCheckpoints(AsyncCheckpoints):
    """Mirrors each folder by its id, so that renaming a folder moves nothing.

    ``a/b.txt`` has its checkpoint in ``{folder id}/dirs/a/files/b.txt``: a file and a directory
    of the same name, one after the other, shall not fight over a place.
    """

    parent: Any  # the contents manager

    async def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        created: dict[str, Any] = await self._do(_create, path)
        return created

    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        await self._do(_restore, path, checkpoint_id)

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        if len(split(path)) < 2:
            return []
        found: list[dict[str, Any]] = await self._do(_list, path)
        return found

    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        await self._do(_delete, path, checkpoint_id)

    async def rename_all_checkpoints(self, old_path: str, new_path: str) -> None:
        """Let the checkpoints of a file, or of all files in a directory, follow it."""
        names = split(new_path)
        if len(names) > 1:  # else a folder, whose mirror is named by its id
            home = await self.parent.home()
            await asyncio.to_thread(_follow, home, split(old_path), names)

    async def delete_all_checkpoints(self, path: str) -> None:
        """Delete the checkpoints of a file, or of all files in a directory."""
        names = split(path)
        if len(names) > 1:  # a folder's own go when it is purged
            home = await self.parent.home()
            await asyncio.to_thread(_forget, home, names)

    async def _do(self, work: Any, path: str, *arguments: Any) -> Any:
        names = split(path)
        if len(names) < 2:
            raise NotFound(f"{path!r} is not a file.")
        return await asyncio.to_thread(work, await self.parent.home(), names, *arguments)


def _create(home: Home, names: tuple[str, ...]) -> dict[str, Any]:
    with home.spot(names) as spot, reading(spot) as file, _replaced(_of_file(spot)) as fd:
        copy_bytes(file.fileno(), fd)
        return _model(os.fstat(fd))


def _restore(home: Home, names: tuple[str, ...], checkpoint_id: str) -> None:
    with home.spot(names) as spot:
        saved = _existing(spot, checkpoint_id)
        with saved.open("rb") as file, replacing(spot) as target:
            copy_bytes(file.fileno(), target.fileno())


def _list(home: Home, names: tuple[str, ...]) -> list[dict[str, Any]]:
    with home.spot(names) as spot:
        saved = _of_file(spot)
        return [_model(saved.stat())] if saved.is_file() else []


def _delete(home: Home, names: tuple[str, ...], checkpoint_id: str) -> None:
    with home.spot(names) as spot:
        _existing(spot, checkpoint_id).unlink(missing_ok=True)


def _follow(home: Home, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    try:
        with home.spot(old, follow=False) as was, home.spot(new, follow=False) as now:
            for where in (_of_file, _of_directory):
                _move(where(was), where(now))
    except NotFound:
        return  # a kernel was faster: what the checkpoints were of has moved on


def _forget(home: Home, names: tuple[str, ...]) -> None:
    with home.spot(names, follow=False) as spot:
        for where in (_of_file, _of_directory):
            _remove(where(spot))


def _existing(spot: Spot, checkpoint_id: str) -> Path:
    saved = _of_file(spot)
    if checkpoint_id != _ONLY_ID or not saved.is_file():
        raise NotFound(f"There is no checkpoint {checkpoint_id!r} of {spot.path!r}.")
    return saved


def _of_file(spot: Spot) -> Path:
    if not spot.names:
        raise NotFound(f"{spot.path!r} is a folder and has no checkpoint.")
    return _mirrored(spot, spot.names[:-1]) / "files" / spot.names[-1]


def _of_directory(spot: Spot) -> Path:
    return _mirrored(spot, spot.names)


def _mirrored(spot: Spot, names: tuple[str, ...]) -> Path:
    parts = (part for name in names for part in ("dirs", name))
    return spot.host.checkpoints.joinpath(spot.folder.id, *parts)


@contextmanager
def _replaced(path: Path) -> Iterator[int]:
    """Write a file of the server's own that takes the place of ``path`` when it is complete."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.parent / secrets.token_hex(16)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        partial.rename(path)
    finally:
        os.close(fd)
        partial.unlink(missing_ok=True)


def _model(found: os.stat_result) -> dict[str, Any]:
    return {"id": _ONLY_ID, "last_modified": datetime.fromtimestamp(found.st_mtime, UTC)}


def _move(old: Path, new: Path) -> None:
    """Move what there is; what was left at the new place belonged to something else."""
    _remove(new)
    if old.exists():
        new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.move(old, new)  # a folder of another host has its checkpoints there


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
