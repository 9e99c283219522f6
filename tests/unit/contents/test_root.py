"""The root of the file browser: the viewer's folders, and what may be done beside them."""

# jupyter_server and nbformat carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.files.handlers import FilesHandler
from jupyter_server.services.contents.handlers import validate_model
from tornado import web

from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.contents.writing import owner_of
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.backends import BACKENDS
from tests.unit.contents.small_backend import KERNEL, SmallBackend, entries

A_FILE = {"type": "file", "format": "text", "content": "x"}


async def names(contents: VFolderContentsManager, path: str = "") -> list[str]:
    return [entry["name"] for entry in (await contents.get(path))["content"]]


async def test_the_root_lists_exactly_the_folders(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    (Path(contents.root_dir) / "stray.txt").write_text("not a folder")
    model = await contents.get("")
    validate_model(model, expect_content=True)
    assert [entry["name"] for entry in model["content"]] == ["data", "extra"]
    for entry in model["content"]:
        validate_model(entry)
        assert entry["type"] == "directory"
        assert entry["path"] == entry["name"]
        assert entry["writable"] is True
        assert entry["created"] == datetime.fromtimestamp(1_000_000, UTC)


async def test_a_folder_made_elsewhere_appears_at_once(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    await backend.make_folder("more")
    assert await names(contents) == ["data", "extra", "more"]
    assert await contents.dir_exists("more")


async def test_a_request_asks_for_the_folders_once(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path
) -> None:
    for n in range(20):
        (data / f"{n}.txt").touch()
    before = backend.store.reads
    assert len(await names(contents, "data")) == 20
    assert backend.store.reads == before + 1


async def test_a_folder_whose_directory_is_lost_is_not_listed(
    contents: VFolderContentsManager, extra: Path
) -> None:
    shutil.rmtree(extra)
    assert await names(contents) == ["data"]


async def test_a_hidden_folder_is_shown_only_where_hidden_files_are(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    await backend.make_folder(".dots")
    assert ".dots" not in await names(contents)
    assert not await contents.dir_exists(".dots")
    contents.allow_hidden = True
    assert ".dots" in await names(contents)


async def test_the_root_exists_and_is_a_visible_directory(
    contents: VFolderContentsManager,
) -> None:
    for root in ("", "/"):
        assert await contents.dir_exists(root)
        assert contents.exists(root)
        assert not await contents.file_exists(root)
        assert not await contents.is_hidden(root)


async def test_what_is_not_there_neither_exists_nor_fails(
    contents: VFolderContentsManager,
) -> None:
    for path in ("console-1", "console-1/x", "../etc", "data/../../x", "a\0b", "\ud800"):
        assert not await contents.dir_exists(path)
        assert not await contents.file_exists(path)
        assert not await contents.is_hidden(path)
        assert not contents.exists(path)
        with pytest.raises(web.HTTPError) as refused:
            await contents.get(path)
        assert refused.value.status_code == 404


async def test_a_file_cannot_be_saved_beside_the_folders(
    contents: VFolderContentsManager,
) -> None:
    for path in ("x.txt", "/data", "", "./x.txt"):
        with pytest.raises(web.HTTPError, match="only folders at the top") as refused:
            await contents.save(dict(A_FILE), path)
        assert refused.value.status_code == 403
    with pytest.raises(web.HTTPError, match="only folders at the top"):
        await contents.new(dict(A_FILE), "x.txt")
    assert entries(Path(contents.root_dir)) == ["me"]


async def test_saving_a_directory_at_the_root_makes_a_folder(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    model = await contents.save({"type": "directory"}, "/Käse 1")
    assert (model["name"], model["path"], model["type"]) == ("Käse 1", "Käse 1", "directory")
    folder = backend.store.folders["Käse 1"]
    assert owner_of(folder.path) == (KERNEL, KERNEL)
    again = await contents.save({"type": "directory"}, "Käse 1")
    assert again["created"] == model["created"]


async def test_a_new_untitled_directory_at_the_root_makes_a_folder(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    first = await contents.new_untitled(path="", type="directory")
    second = await contents.new_untitled(path="", type="directory")
    assert (first["path"], second["path"]) == ("Untitled Folder", "Untitled Folder 1")
    assert {"Untitled Folder", "Untitled Folder 1"} < set(backend.store.folders)


@pytest.mark.parametrize("name", [".hidden", ".ssh", "a\\b", "x" * 200, "tab\t"])
async def test_a_name_that_no_folder_may_have_is_refused(
    name: str, contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await contents.save({"type": "directory"}, name)
    assert refused.value.status_code == 400
    assert set(backend.store.folders) == {"data", "extra"}


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"type": "notebook"}, "data/Untitled.ipynb"),
        ({"type": "file", "ext": ".py"}, "data/untitled.py"),
        ({}, "data/untitled"),
    ],
)
async def test_what_the_launcher_makes_at_the_root_goes_into_the_first_folder(
    asked: dict[str, str], path: str, contents: VFolderContentsManager, data: Path
) -> None:
    model = await contents.new_untitled(path="", **asked)
    validate_model(model)
    assert model["path"] == path
    assert (data / path.removeprefix("data/")).is_file()


async def test_new_without_a_path_goes_into_the_first_folder(
    contents: VFolderContentsManager, data: Path
) -> None:
    assert (await contents.new(dict(A_FILE), ""))["path"] == "data/untitled"
    assert (await contents.new({"type": "notebook"}, "/"))["path"] == "data/Untitled.ipynb"
    assert (data / "untitled").read_text() == "x"


async def test_without_any_folder_the_launcher_is_told_to_make_one(backend: SmallBackend) -> None:
    contents = VFolderContentsManager()
    assert await names(contents) == []
    assert contents.preferred_dir == ""
    with pytest.raises(web.HTTPError, match="no folder yet") as refused:
        await contents.new_untitled(path="", type="notebook")
    assert refused.value.status_code == 409


async def test_a_copy_to_the_root_goes_into_the_first_folder(
    contents: VFolderContentsManager, data: Path, extra: Path
) -> None:
    (extra / "a.txt").write_text("a")
    (extra / "sub").mkdir()
    assert (await contents.copy("extra/a.txt", ""))["path"] == "data/a.txt"
    assert (await contents.copy("extra/sub", "/"))["path"] == "data/sub"
    assert (data / "a.txt").read_text() == "a"


async def test_folders_themselves_cannot_be_moved_deleted_or_copied_yet(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "kept.txt").touch()
    for change in (
        contents.rename("data", "extra/data"),
        contents.delete("data"),
        contents.copy("data"),
        contents.copy("data", "extra"),
    ):
        with pytest.raises(web.HTTPError, match="as a whole cannot be") as refused:
            await change
        assert refused.value.status_code == 403
    with pytest.raises(web.HTTPError):
        await contents.delete("")
    assert entries(data) == ["kept.txt"]


async def test_a_folder_is_renamed_with_all_that_belongs_to_it(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.txt").write_text("before")
    checkpoint = await contents.create_checkpoint("data/a.txt")
    (data / "a.txt").write_text("after")
    model = await contents.update({"path": "renamed"}, "data")
    assert model["path"] == "renamed"
    assert await names(contents) == ["extra", "renamed"]
    assert (data / "a.txt").read_text() == "after"
    await contents.restore_checkpoint(checkpoint["id"], "renamed/a.txt")
    assert (data / "a.txt").read_text() == "before"


async def test_a_folder_keeps_its_name_while_a_kernel_shows_it(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path
) -> None:
    backend.mounted.add(str(data))
    with pytest.raises(web.HTTPError, match="running kernel uses") as refused:
        await contents.rename("data", "other")
    assert refused.value.status_code == 409
    with pytest.raises(web.HTTPError, match="already"):
        await contents.rename("extra", "data")
    assert await names(contents) == ["data", "extra"]


async def test_a_file_cannot_be_moved_to_the_root(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.txt").touch()
    with pytest.raises(web.HTTPError, match="only folders at the top"):
        await contents.rename("data/a.txt", "a.txt")
    assert (data / "a.txt").exists()


async def test_the_browser_opens_in_the_first_folder(contents: VFolderContentsManager) -> None:
    assert contents.preferred_dir == "data"


async def test_a_preferred_directory_may_be_chosen(backend: SmallBackend, data: Path) -> None:
    (data / "sub").mkdir()
    contents = VFolderContentsManager(preferred_dir="/data/sub/")
    await contents.get("")
    assert contents.preferred_dir == "data/sub"


async def test_the_browser_does_not_open_in_a_folder_that_is_gone(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    assert contents.preferred_dir == "data"
    del backend.store.folders["data"]
    await contents.get("")
    assert contents.preferred_dir == "extra"


async def test_configuration_opens_no_way_around_the_folders(
    backend: SmallBackend, data: Path, tmp_path: Path
) -> None:
    config: Any = VFolderContentsManager().config.copy()
    config.FileContentsManager.root_dir = "/"
    config.FileContentsManager.delete_to_trash = True
    contents = VFolderContentsManager(config=config)
    assert contents.root_dir == str(tmp_path / "data" / "vfolders")
    assert not contents.delete_to_trash
    ((_, handler, _),) = contents.get_extra_handlers()
    assert handler is FilesHandler


async def test_without_a_backend_the_answer_is_that_it_is_not_there(
    contents: VFolderContentsManager,
) -> None:
    BACKENDS.serve(None)
    with pytest.raises(web.HTTPError, match=r"No Backend\.AI backend") as refused:
        await contents.get("")
    assert refused.value.status_code == 503
    with pytest.raises(Unavailable):
        VFolderContentsManager()
