"""The top of the file browser: virtual folders are made, renamed and thrown away by hand."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.file_browser import FileBrowser, Folder, folder_named, vfolders
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

AWKWARD = ["Käse & 数据 1", "50% #1? [x] + ;=", 'it\'s a "🐈" <b>', "a.b.ipynb"]
REFUSED = "Failed to load resource"  # the browser's own words for any answer of that kind


async def test_new_folder_at_the_top_makes_a_virtual_folder_of_any_name(
    files: FileBrowser, server: RunningServer
) -> None:
    await files.open("")
    for name in AWKWARD:
        await files.press("New Folder")
        await files.call_it(name)
        await expect(files.lab.file(name)).to_be_visible()
        await files.enter(name)
        await expect(files.lab.crumbs).to_have_text(f"/{name}/")
        await files.press("New Folder")
        await files.call_it(f"{name} too")
        await expect(files.lab.file(f"{name} too")).to_be_visible()
        assert (await folder_named(server, name)).tree() == {f"{name} too"}
        await files.leave()
    assert "Untitled Folder" not in {folder["name"] for folder in await vfolders(server)}


async def test_a_folder_is_renamed_with_what_is_in_it(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    folder.write("sub/x.txt", "x")
    await files.open("")
    await files.choose(folder.name, "Rename")
    await files.call_it("新しい")
    await expect(files.lab.file("新しい")).to_be_visible()
    await expect(files.lab.file(folder.name)).to_have_count(0)
    assert (await folder_named(server, "新しい")).disk == folder.disk
    await files.enter("新しい")
    await expect(files.names).to_have_text(["sub"])


async def test_deleting_a_folder_moves_it_to_the_trash(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    folder.write("x.txt", "x")
    await files.open("")
    await files.choose(folder.name, "Delete")
    await expect(files.lab.dialog).to_contain_text(folder.name)
    await files.lab.answer("Delete")
    await expect(files.lab.file(folder.name)).to_have_count(0)
    (trashed,) = [found for found in await vfolders(server) if found["name"] == folder.name]
    assert trashed["status"] == "delete-pending"
    assert (folder.disk / "x.txt").read_text() == "x"


async def test_a_name_that_is_refused_is_answered_with_the_reason(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    files.lab.expected_problems = (REFUSED,)
    await files.open("")
    for name, reason in [
        ("x" * 129, "name: longer than 128 bytes"),
        ("a\u0085b", "name: may not contain control characters"),
        ("data", "There is a folder 'data' already; choose another name."),
    ]:
        await files.choose(folder.name, "Rename")
        await files.call_it(name)
        await expect(files.lab.dialog).to_contain_text(reason)
        await files.lab.answer("Close")
        await expect(files.lab.file(folder.name)).to_be_visible()
    assert (await folder_named(server, folder.name)).disk == folder.disk


async def test_a_folder_that_a_kernel_uses_keeps_its_name_and_says_so(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    files.lab.expected_problems = (REFUSED,)
    await files.open(folder.name)
    await files.lab.start_notebook()
    await files.leave()
    await files.choose(folder.name, "Rename")
    await files.call_it("Idle")
    await expect(files.lab.dialog).to_contain_text("running kernel")
    await files.lab.answer("Close")
    await expect(files.lab.file(folder.name)).to_be_visible()
    assert (await folder_named(server, folder.name)).disk == folder.disk
