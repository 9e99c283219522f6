"""Checkpoints: outside of the folders, and always with their file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tornado import web

from backendai_jupyter.contents.manager import VFolderContentsManager
from tests.unit.contents.small_backend import KERNEL, SmallBackend, entries


async def save(contents: VFolderContentsManager, path: str, content: str) -> None:
    await contents.save({"type": "file", "format": "text", "content": content}, path)


def kept(tmp_path: Path) -> list[str]:
    root = tmp_path / "data" / "vfolders" / ".backendai" / "checkpoints"
    return sorted(path.read_text() for path in root.rglob("*") if path.is_file())


async def test_a_checkpoint_is_restored_and_never_seen_in_the_folder(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend, tmp_path: Path
) -> None:
    await save(contents, "data/a.txt", "first")
    made = await contents.create_checkpoint("data/a.txt")
    await save(contents, "data/a.txt", "second")
    assert await contents.list_checkpoints("data/a.txt") == [made]
    assert entries(data) == ["a.txt"]
    mirrored = backend.host.checkpoints / backend.store.folders["data"].id
    assert mirrored.is_dir()
    await contents.restore_checkpoint(made["id"], "data/a.txt")
    assert (data / "a.txt").read_text() == "first"
    assert (data / "a.txt").stat().st_uid == KERNEL


async def test_a_saved_notebook_has_a_checkpoint(
    contents: VFolderContentsManager, data: Path
) -> None:
    await contents.new_untitled("data", type="notebook")
    assert len(await contents.list_checkpoints("data/Untitled.ipynb")) == 1
    assert entries(data) == ["Untitled.ipynb"]


async def test_asking_for_checkpoints_creates_nothing(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend
) -> None:
    (data / "a.txt").touch()
    for path in ("", "data", "data/a.txt", "data/gone.txt"):
        assert await contents.list_checkpoints(path) == []
    assert entries(backend.host.checkpoints) == []


async def test_a_file_deleted_by_the_kernel_can_be_restored_for_it(
    contents: VFolderContentsManager, data: Path
) -> None:
    await save(contents, "data/a.txt", "first")
    await contents.create_checkpoint("data/a.txt")
    (data / "a.txt").unlink()
    await contents.restore_checkpoint("checkpoint", "data/a.txt")
    assert (data / "a.txt").stat().st_uid == KERNEL


async def test_checkpoints_follow_a_renamed_file_into_another_folder(
    contents: VFolderContentsManager, tmp_path: Path
) -> None:
    await save(contents, "data/a.txt", "first")
    await contents.create_checkpoint("data/a.txt")
    await contents.rename("data/a.txt", "extra/b.txt")
    assert await contents.list_checkpoints("data/a.txt") == []
    assert len(await contents.list_checkpoints("extra/b.txt")) == 1
    await contents.delete("extra/b.txt")
    assert kept(tmp_path) == []


async def test_checkpoints_follow_a_renamed_directory_and_go_with_it(
    contents: VFolderContentsManager, data: Path, tmp_path: Path
) -> None:
    (data / "old" / "deep").mkdir(parents=True)
    await save(contents, "data/old/deep/a.txt", "first")
    await contents.create_checkpoint("data/old/deep/a.txt")
    await contents.rename("data/old", "data/new")
    assert len(await contents.list_checkpoints("data/new/deep/a.txt")) == 1
    await contents.delete("data/new")
    assert kept(tmp_path) == []


async def test_a_file_does_not_inherit_what_another_left_under_its_name(
    contents: VFolderContentsManager, data: Path
) -> None:
    await save(contents, "data/a.txt", "first")
    await contents.create_checkpoint("data/a.txt")
    (data / "a.txt").unlink()
    await save(contents, "data/b.txt", "another")
    await contents.rename("data/b.txt", "data/a.txt")
    assert await contents.list_checkpoints("data/a.txt") == []


async def test_a_directory_may_take_the_name_of_a_file_that_had_a_checkpoint(
    contents: VFolderContentsManager, data: Path
) -> None:
    await save(contents, "data/name", "first")
    await contents.create_checkpoint("data/name")
    (data / "name").unlink()
    (data / "name").mkdir()
    await save(contents, "data/name/a.txt", "second")
    await contents.create_checkpoint("data/name/a.txt")
    assert len(await contents.list_checkpoints("data/name/a.txt")) == 1


async def test_a_checkpoint_that_is_not_there_is_not_found(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.txt").touch()
    for attempt in (
        contents.restore_checkpoint("checkpoint", "data/a.txt"),
        contents.restore_checkpoint("other", "data/a.txt"),
        contents.delete_checkpoint("checkpoint", "data/a.txt"),
        contents.delete_checkpoint("checkpoint", "data"),
        contents.create_checkpoint("data/gone.txt"),
        contents.create_checkpoint("data"),
        contents.create_checkpoint(""),
    ):
        with pytest.raises(web.HTTPError) as refused:
            await attempt
        assert refused.value.status_code == 404
