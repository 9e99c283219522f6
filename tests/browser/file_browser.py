"""JupyterLab's file browser as hands use it, and what its virtual folders really hold."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Locator, expect

from tests.browser.lab import Lab
from tests.server import RunningServer

MENU_ENTRY = ".lm-Menu-itemLabel:visible"


@dataclass(frozen=True, slots=True)
class Folder:
    """A virtual folder, and its directory on this machine."""

    server: RunningServer
    name: str
    disk: Path

    def tree(self) -> set[str]:
        """Return the paths of all that is in it, hidden files and directories too."""
        return {str(path.relative_to(self.disk)) for path in self.disk.rglob("*")}

    def read(self, path: str) -> str:
        return (self.disk / path).read_text()

    def contents(self) -> dict[str, bytes]:
        """Return all files in it, by path."""
        return contents_of(self.disk)

    def write(self, path: str, content: str) -> None:
        """Put a file there behind JupyterLab's back."""
        file = self.disk / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    async def protect(self) -> None:
        """Let nobody write to it any more."""
        answer = await self.server.request(
            "PATCH", f"backendai/v1/vfolders/{self.name}", json={"permission": "ro"}
        )
        assert answer.is_success, answer.text


def contents_of(directory: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a directory, by path."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


async def vfolders(server: RunningServer) -> list[dict[str, Any]]:
    """Return what the API says of all folders, those in the trash too."""
    answer = await server.get("backendai/v1/vfolders")
    assert answer.is_success, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


async def make_folder(server: RunningServer, name: str = "") -> Folder:
    """Make an empty folder; without a name, one that no other test has."""
    body = {"name": name or f"folder-{uuid.uuid4().hex[:8]}"}
    answer = await server.post("backendai/v1/vfolders", json=body)
    assert answer.status_code == 201, answer.text
    return await folder_named(server, body["name"])


async def folder_named(server: RunningServer, name: str) -> Folder:
    """Return the only folder of that name that is not in the trash."""
    (found,) = [f for f in await vfolders(server) if f["name"] == name and f["status"] == "ready"]
    hosts = (await server.get("backendai/v1/vfolder-hosts")).json()
    (root,) = [Path(host["path"]) for host in hosts if host["name"] == found["host"]]
    return Folder(server, name, root / found["owner"] / found["id"])


class FileBrowser:
    """The panel on the left of a window."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.page = lab.page

    @property
    def names(self) -> Locator:
        """Return all that is listed."""
        return self.page.locator(".jp-DirListing-itemText")

    async def open(self, path: str) -> None:
        """Load JupyterLab with the browser in a directory; ``""`` is the list of folders."""
        await self.lab.open(path)
        if not path:
            await self.page.locator(".jp-BreadCrumbs-home").first.click()
        await expect(self.lab.crumbs).to_have_text(f"/{path}/" if path else "/")

    async def press(self, button: str) -> None:
        """Press a button of the browser's toolbar."""
        toolbar = self.page.locator(".jp-FileBrowser-toolbar")
        await toolbar.get_by_role("button", name=button).click()

    async def enter(self, name: str) -> None:
        """Open a file or directory with a double click."""
        await self.lab.file(name).dblclick()

    async def leave(self) -> None:
        """Go to the list of folders."""
        await self.page.locator(".jp-BreadCrumbs-home").first.click()
        await expect(self.lab.crumbs).to_have_text("/")

    async def choose(self, name: str, entry: str) -> None:
        """Choose an entry of the context menu of a file or directory."""
        await (await self.menu_of(name)).get_by_text(entry, exact=True).click()

    async def paste(self) -> None:
        """Choose Paste in the context menu of the space below the files."""
        await self.page.mouse.click(*await self._below_the_files(), button="right")
        await self.page.locator(MENU_ENTRY).get_by_text("Paste", exact=True).click()

    async def call_it(self, name: str) -> None:
        """Type a name where the browser asks for one."""
        editor = self.page.locator(".jp-DirListing-editor")
        await editor.fill(name)
        await editor.press("Enter")
        await expect(editor).to_have_count(0)

    async def drop(self, paths: Sequence[Path]) -> None:
        """Drop files and directories of the desktop on the space below the files."""
        x, y = await self._below_the_files()
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        devtools = await self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": x, "y": y, "data": data}
            await devtools.send("Input.dispatchDragEvent", event)

    async def upload(self, *paths: Path) -> None:
        """Choose files in the dialog that the upload button opens."""
        async with self.page.expect_file_chooser() as chooser:
            await self.press("Upload Files")
        await (await chooser.value).set_files(paths)

    async def download(self, name: str) -> bytes:
        """Choose Download in the context menu of a file, and return what arrives as ``name``."""
        async with self.page.expect_download() as downloading:
            await self.choose(name, "Download")
        download = await downloading.value
        assert download.suggested_filename == name
        return await asyncio.to_thread(Path(await download.path()).read_bytes)

    async def menu_of(self, name: str) -> Locator:
        """Open the context menu of a file or directory, and return its entries."""
        await self.lab.file(name).click(button="right")
        return self.page.locator(MENU_ENTRY)

    async def _below_the_files(self) -> tuple[float, float]:
        listing = self.page.locator(".jp-DirListing-content")
        await listing.wait_for()
        box = await listing.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] - 10
