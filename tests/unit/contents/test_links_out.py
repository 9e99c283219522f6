"""Symlinks that a kernel has planted to reach what belongs to the server."""

# jupyter_server and nbformat carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import nbformat
import pytest
from tornado import web

from backendai_jupyter.contents.manager import VFolderContentsManager
from tests.unit.contents.small_backend import entries

A_FILE = {"type": "file", "format": "text", "content": "overwritten"}


@pytest.fixture(autouse=True)
def planted(data: Path, secret: Path) -> None:
    (data / "own.txt").write_text("own")
    (data / "file").symlink_to(secret / "key.txt")
    (data / "dir").symlink_to(secret)
    (data / "up").symlink_to("..")
    (data / "new.txt").symlink_to(secret / "new.txt")  # saving would create it
    (data / "chain").symlink_to("dir")


@pytest.fixture(autouse=True)
def untouched(secret: Path) -> object:
    yield
    assert entries(secret) == ["key.txt"]
    assert (secret / "key.txt").read_text() == "the key"


OUT = ["data/file", "data/dir", "data/dir/key.txt", "data/up", "data/chain/key.txt"]


@pytest.mark.parametrize("path", OUT)
async def test_it_cannot_be_read(path: str, contents: VFolderContentsManager) -> None:
    await refused(contents.get(path))
    await refused(contents.copy(path, "extra"))
    await refused(contents.create_checkpoint(path))
    assert not await contents.exists(path)
    assert not await contents.file_exists(path)
    assert not await contents.dir_exists(path)
    assert await contents.resolve_path(f"/home/work/{path}") is None


@pytest.mark.parametrize("path", [*OUT, "data/new.txt", "data/dir/new.txt"])
async def test_it_cannot_be_changed(path: str, contents: VFolderContentsManager) -> None:
    await refused(contents.save(dict(A_FILE), path))
    await refused(contents.save({**A_FILE, "chunk": 1}, path))
    await refused(contents.save({**A_FILE, "chunk": 2}, path))
    await refused(contents.delete(path))
    await refused(contents.rename(path, "extra/mine"))
    await refused(contents.rename("data/own.txt", path), 404, 409)
    await refused(contents.copy("data/own.txt", path), 404, 409)
    await refused(contents.new_untitled(path))
    await refused(contents.restore_checkpoint("checkpoint", path))


async def test_a_listing_leaves_it_out(contents: VFolderContentsManager) -> None:
    listed = await contents.get("data")
    assert [entry["name"] for entry in listed["content"]] == ["own.txt"]


async def test_a_copied_directory_does_not_bring_it_in(
    contents: VFolderContentsManager, data: Path, extra: Path, secret: Path
) -> None:
    (data / "sub").mkdir()
    (data / "sub" / "leak").symlink_to(secret / "key.txt")
    await contents.copy("data/sub", "extra")
    assert (extra / "sub" / "leak").is_symlink()
    await refused(contents.get("extra/sub/leak"))


async def test_a_link_where_jupyter_keeps_its_intermediate_file_is_not_followed(
    contents: VFolderContentsManager, data: Path, secret: Path
) -> None:
    (data / ".~own.txt").symlink_to(secret / "new.txt")
    await contents.save(dict(A_FILE), "data/own.txt")
    assert (data / "own.txt").read_text() == "overwritten"


async def test_a_broken_notebook_is_not_replaced_by_what_such_a_link_leads_to(
    contents: VFolderContentsManager, data: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), foreign)
    (data / "nb.ipynb").write_text("broken")
    (data / ".~nb.ipynb").symlink_to(foreign)
    with pytest.raises(web.HTTPError, match="not a readable notebook"):
        await contents.get("data/nb.ipynb")
    assert (data / "nb.ipynb").read_text() == "broken"


async def test_a_local_kernel_does_not_work_there(
    contents: VFolderContentsManager, data: Path
) -> None:
    assert contents.host_directory("data/dir") == str(data)


async def refused(attempt: Awaitable[object], *statuses: int) -> None:
    with pytest.raises(web.HTTPError) as refusal:
        await attempt
    assert refusal.value.status_code in (statuses or (404,))
