"""Files go into a folder and come out of it again, through the browser alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.file_browser import FileBrowser, Folder, contents_of, folder_named
from tests.browser.lab import Lab, write_notebook
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

BYTES = random.Random(0).randbytes(2_500_000)  # JupyterLab sends more than 1 MiB in chunks


@pytest.fixture
def desktop(tmp_path: Path) -> Path:
    """A directory with two files, one of them large, and a directory."""
    desktop = tmp_path / "desktop"
    (desktop / "pictures/2024").mkdir(parents=True)
    (desktop / "Grüße #1.txt").write_text("hello")
    (desktop / "large.bin").write_bytes(BYTES)
    (desktop / "pictures/a.png").write_bytes(BYTES[:100])
    (desktop / "pictures/2024/b.png").write_bytes(b"")
    return desktop


async def test_files_and_directories_of_the_desktop_are_dropped_into_a_folder(
    files: FileBrowser, folder: Folder, desktop: Path
) -> None:
    await files.open(folder.name)
    await files.drop([desktop / "Grüße #1.txt", desktop / "large.bin", desktop / "pictures"])
    await expect(files.names).to_have_text(["pictures", "Grüße #1.txt", "large.bin"])
    await eventually(lambda: folder.contents() == contents_of(desktop))


async def test_a_directory_that_is_dropped_at_the_top_becomes_a_folder(
    files: FileBrowser, server: RunningServer, desktop: Path
) -> None:
    await files.open("")
    await files.drop([desktop / "pictures"])
    await expect(files.lab.file("pictures")).to_be_visible()
    folder = await folder_named(server, "pictures")
    await eventually(lambda: folder.contents() == contents_of(desktop / "pictures"))


async def test_a_file_that_is_uploaded_at_the_top_is_refused_with_the_reason(
    files: FileBrowser, desktop: Path
) -> None:
    files.lab.expected_problems = ("403 (Forbidden)",)
    await files.open("")
    await files.upload(desktop / "large.bin")
    await expect(files.lab.dialog).to_contain_text("There are only folders at the top")
    await files.lab.answer("Close")
    await expect(files.lab.file("large.bin")).to_have_count(0)


async def test_the_upload_button_takes_several_files(
    files: FileBrowser, folder: Folder, desktop: Path
) -> None:
    await files.open(folder.name)
    await files.upload(desktop / "Grüße #1.txt", desktop / "large.bin")
    await expect(files.names).to_have_text(["Grüße #1.txt", "large.bin"])
    await expect(files.page.locator("#jp-main-statusbar")).to_contain_text("Complete!")
    assert folder.contents() == {"Grüße #1.txt": b"hello", "large.bin": BYTES}


async def test_an_upload_over_a_file_asks_and_then_replaces_it(
    files: FileBrowser, folder: Folder, desktop: Path
) -> None:
    folder.write("large.bin", "old")
    await files.open(folder.name)
    await files.upload(desktop / "large.bin")
    await expect(files.lab.dialog).to_contain_text('"large.bin" already exists, overwrite?')
    assert folder.contents() == {"large.bin": b"old"}
    await files.lab.answer("Overwrite")
    await eventually(lambda: folder.contents() == {"large.bin": BYTES})
    await expect(files.names).to_have_text(["large.bin"])


async def test_download_gives_exactly_the_file(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    await write_notebook(server, f"{folder.name}/50% #1 é.ipynb", backendai={})
    folder.write("Grüße & 数据;1.html", "<script>alert(1)</script>")
    (folder.disk / "large.bin").write_bytes(BYTES)
    (folder.disk / "empty").touch()
    (folder.disk / "directory").mkdir()
    await files.open(folder.name)
    for name, content in folder.contents().items():
        assert await files.download(name) == content
    entries = await files.menu_of("directory")
    await expect(entries.get_by_text("Rename", exact=True)).to_be_visible()
    await expect(entries.get_by_text("Download", exact=True)).to_have_count(0)


async def test_a_chunked_upload_into_a_protected_folder_is_refused_with_the_reason(
    lab: Lab, files: FileBrowser, folder: Folder, desktop: Path
) -> None:
    await folder.protect()
    lab.expected_problems = ("403 (Forbidden)",)
    await files.open(folder.name)
    await files.upload(desktop / "large.bin")
    await expect(lab.dialog).to_contain_text("read-only")
    await lab.answer("Close")
    assert folder.tree() == set()
