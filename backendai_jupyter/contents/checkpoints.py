"""Checkpoints of files, kept where neither kernels nor the file browser see them."""

# jupyter_server's managers carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_server.services.contents.filecheckpoints import AsyncFileCheckpoints
from tornado import web

from backendai_jupyter.contents.tree import Place, split

_ONLY_ID = "checkpoint"  # one per file, as in jupyter_server


class VFolderCheckpoints(AsyncFileCheckpoints):
    """Mirrors each folder by its id, so that renaming a folder moves nothing.

    The files of a directory have theirs in a subdirectory of the mirrored one, which a file
    and a directory of the same name, one after the other, would otherwise fight over.
    """

    parent: Any  # the contents manager

    def checkpoint_path(self, checkpoint_id: str, path: str) -> str:
        """Return where the checkpoint is, or would be; creates nothing."""
        place = self.parent.locate(path)
        if checkpoint_id != _ONLY_ID or place is None or not place.inside:
            raise web.HTTPError(404, f"Checkpoint does not exist: {path}@{checkpoint_id}")
        return str(self._of_file(place))

    async def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        if not await contents_mgr.file_exists(path):
            raise web.HTTPError(404, f"There is no file {path!r} to make a checkpoint of.")
        checkpoint = Path(self.checkpoint_path(_ONLY_ID, path))
        await asyncio.to_thread(checkpoint.parent.mkdir, parents=True, exist_ok=True)
        created: dict[str, Any] = await super().create_checkpoint(contents_mgr, path)
        return created

    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        checkpoint = Path(self.checkpoint_path(checkpoint_id, path))
        if not await asyncio.to_thread(checkpoint.is_file):
            raise web.HTTPError(404, f"Checkpoint does not exist: {path}@{checkpoint_id}")
        target = contents_mgr._get_os_path(path)
        await asyncio.to_thread(_restore, checkpoint, target, contents_mgr.atomic_writing)

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        place = self.parent.locate(path)
        if place is None or not place.inside:
            return []
        found: list[dict[str, Any]] = await super().list_checkpoints(path)
        return found

    async def rename_all_checkpoints(self, old_path: str, new_path: str) -> None:
        """Let the checkpoints of a file, or of all files in a directory, follow it."""
        if len(split(new_path)) == 1:
            return  # a folder, whose mirror is named by its id
        old, new = self.parent.locate(old_path), self.parent.locate(new_path)
        for where in (self._of_file, self._of_directory):
            await asyncio.to_thread(_move, where(old), where(new))

    async def delete_all_checkpoints(self, path: str) -> None:
        """Delete the checkpoints of a file, or of all files in a directory."""
        place = self.parent.locate(path)
        for where in (self._of_file, self._of_directory):
            await asyncio.to_thread(_remove, where(place))

    def _of_file(self, place: Place) -> Path:
        return self._of_directory(place).parent / self.checkpoint_dir / place.inside[-1]

    def _of_directory(self, place: Place) -> Path:
        root = Path(self.parent.backend.settings.data_dir) / "checkpoints"
        return root.joinpath(place.folder.id, *place.inside)


def _restore(checkpoint: Path, target: str, writing: Callable[..., Any]) -> None:
    with checkpoint.open("rb") as saved, writing(target, text=False) as file:
        shutil.copyfileobj(saved, file)


def _move(old: Path, new: Path) -> None:
    """Move what there is; what was left at the new place belonged to something else."""
    _remove(new)
    if old.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
