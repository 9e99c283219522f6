"""The root of the file browser: the viewer's folders, and what may be done beside them."""

# jupyter_server and nbformat carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.contents.handlers import validate_model
from tornado import web

from backendai_jupyter.contents.downloads import FilesHandler
from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.provisioning.backends import BACKENDS
from tests.unit.contents.small_backend import KERNEL, SmallBackend, entries, owner_of, owners

A_FILE = {"type": "file", "format": "text", "content": "x"}


async def names(contents: VFolderContentsManager, path: str = "") -> list[str]:
    return [entry["name"] for entry in (await contents.get(path))["content"]]


async def test_the_root_lists_exactly_the_folders(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    (backend.host.root / "stray.txt").write_text("not a folder")
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


async def test_what_one_viewer_has_seen_is_not_shown_to_another(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    assert await names(contents) == ["data", "extra"]
    backend.manager.viewer = Viewer("somebody else")
    assert not await contents.dir_exists("data")
    assert contents.host_directory("data") == str(Path.home())
    assert await names(contents) == []


async def test_a_folder_whose_host_is_away_is_listed_and_says_so_when_it_is_opened(
    contents: VFolderContentsManager, extra: Path
) -> None:
    shutil.rmtree(extra)
    assert await names(contents) == ["data", "extra"]
    with pytest.raises(web.HTTPError, match="'extra' cannot be opened") as refused:
        await contents.get("extra")
    assert refused.value.status_code == 503


async def test_a_hidden_folder_is_shown_only_where_hidden_files_are(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    await backend.make_folder(".dots")
    assert ".dots" not in await names(contents)
    assert await contents.is_hidden(".dots")
    contents.allow_hidden = True
    assert ".dots" in await names(contents)


async def test_the_root_exists_and_is_a_visible_directory(
    contents: VFolderContentsManager,
) -> None:
    for root in ("", "/"):
        assert await contents.dir_exists(root)
        assert await contents.exists(root)
        assert not await contents.file_exists(root)
        assert not await contents.is_hidden(root)


async def test_what_is_not_there_neither_exists_nor_fails(
    contents: VFolderContentsManager,
) -> None:
    for path in ("console-1", "console-1/x", "../etc", "data/../../x", "a\0b", "\ud800"):
        assert not await contents.dir_exists(path)
        assert not await contents.file_exists(path)
        assert not await contents.is_hidden(path)
        assert not await contents.exists(path)
        with pytest.raises(web.HTTPError) as refused:
            await contents.get(path)
        assert refused.value.status_code == 404


async def test_a_file_cannot_be_saved_beside_the_folders(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    for path in ("x.txt", "/data", "", "./x.txt"):
        with pytest.raises(web.HTTPError, match="only folders at the top") as refused:
            await contents.save(dict(A_FILE), path)
        assert refused.value.status_code == 403
    with pytest.raises(web.HTTPError, match="only folders at the top"):
        await contents.new(dict(A_FILE), "x.txt")
    assert entries(backend.host.root) == [".backendai", "me"]


async def test_saving_a_directory_at_the_root_makes_a_folder(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    model = await contents.save({"type": "directory"}, "/Käse 1")
    assert (model["name"], model["path"], model["type"]) == ("Käse 1", "Käse 1", "directory")
    folder = backend.store.folders["Käse 1"]
    assert owner_of(folder.path) == KERNEL
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
    assert (await contents.copy("extra/a.txt", ""))["path"] == "data/a.txt"
    assert (data / "a.txt").read_text() == "a"


async def test_a_folder_stays_at_the_top_and_their_list_stays(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "kept.txt").touch()
    (data / "sub").mkdir()
    for change in (
        contents.rename("data", "extra/data"),
        contents.rename("data/sub", "sub"),
        contents.delete(""),
        contents.copy(""),
    ):
        with pytest.raises(web.HTTPError) as refused:
            await change
        assert refused.value.status_code == 403
    assert entries(data) == ["kept.txt", "sub"]


async def test_a_folder_that_is_deleted_keeps_its_files_in_the_trash(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path
) -> None:
    (data / "a.txt").write_text("precious")
    await contents.create_checkpoint("data/a.txt")
    await contents.delete("data")
    assert await names(contents) == ["extra"]
    assert (data / "a.txt").read_text() == "precious"
    (trashed,) = (f for f in backend.store.by_ids.values() if f.name == "data")
    assert trashed.status is VFolderStatus.DELETE_PENDING
    await contents.save({"type": "directory"}, "data")
    assert await names(contents, "data") == []


async def test_a_purged_folder_takes_its_checkpoints_with_it(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path
) -> None:
    (data / "a.txt").touch()
    await contents.create_checkpoint("data/a.txt")
    await contents.delete("data")
    await backend.manager.vfolders.purge("data", backend.manager.viewer)
    assert data.name not in entries(data.parent)
    assert entries(backend.host.checkpoints) == []


async def test_a_folder_can_be_copied_as_a_folder_and_into_another_one(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path, extra: Path
) -> None:
    (data / "sub").mkdir()
    (data / "sub" / "a.txt").write_text("a")
    assert (await contents.copy("data"))["path"] == "data-Copy1"
    assert (await contents.copy("data/sub", "/"))["path"] == "sub"
    assert (await contents.copy("data", "extra"))["path"] == "extra/data"
    for copied in ("data-Copy1/sub/a.txt", "sub/a.txt", "extra/data/sub/a.txt"):
        assert (await contents.get(copied))["content"] == "a"
    assert owners(extra) == [KERNEL] * 3
    assert entries(backend.host.staging) == []


async def test_a_copy_that_fails_leaves_no_folder(
    contents: VFolderContentsManager, backend: SmallBackend, data: Path
) -> None:
    (data / "sub").mkdir()
    with pytest.raises(web.HTTPError):
        await contents.copy("data/sub", "extra")  # fine
        await contents.copy("data/sub", ".hidden")
    assert set(backend.store.folders) == {"data", "extra"}


async def test_a_read_only_folder_is_shown_as_such_and_nothing_in_it_changes(
    contents: VFolderContentsManager, backend: SmallBackend
) -> None:
    fixed = await backend.make_folder("fixed", permission=Permission.READ_ONLY)
    (fixed / "a.txt").write_text("a")
    (fixed / "sub").mkdir()
    (listed,) = (e for e in (await contents.get(""))["content"] if e["name"] == "fixed")
    assert listed["writable"] is False
    assert [e["writable"] for e in (await contents.get("fixed"))["content"]] == [False, False]
    assert (await contents.get("fixed/a.txt"))["content"] == "a"
    for attempt in (
        contents.save(dict(A_FILE), "fixed/a.txt"),
        contents.save(dict(A_FILE), "fixed/new.txt"),
        contents.save({**A_FILE, "chunk": 1}, "fixed/new.txt"),
        contents.save({"type": "directory"}, "fixed/new"),
        contents.new_untitled("fixed", type="file"),
        contents.rename("fixed/a.txt", "fixed/b.txt"),
        contents.rename("fixed/a.txt", "data/b.txt"),
        contents.copy("fixed/a.txt", "fixed"),
        contents.copy("data", "fixed"),
        contents.delete("fixed/a.txt"),
        contents.delete("fixed/sub"),
    ):
        with pytest.raises(web.HTTPError, match="'fixed' is read-only") as refused:
            await attempt
        assert refused.value.status_code == 403
    assert entries(fixed) == ["a.txt", "sub"]
    assert (await contents.copy("fixed/a.txt", "data"))["path"] == "data/a.txt"


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
    backend.store.mounted.add(backend.store.folders["data"].id)
    with pytest.raises(web.HTTPError, match="running kernel uses") as refused:
        await contents.rename("data", "other")
    assert refused.value.status_code == 403  # JupyterLab would offer to overwrite at a 409
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
    await backend.manager.vfolders.trash("data", backend.manager.viewer)
    await contents.get("")
    assert contents.preferred_dir == "extra"


async def test_configuration_opens_no_way_around_the_folders(
    backend: SmallBackend, data: Path
) -> None:
    config: Any = VFolderContentsManager().config.copy()
    config.ContentsManager.root_dir = "/"
    config.ContentsManager.delete_to_trash = True
    contents = VFolderContentsManager(config=config)
    assert contents.root_dir == "/home/work"
    assert not hasattr(contents, "_get_os_path")  # else nbconvert would take files from there
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
