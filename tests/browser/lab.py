"""JupyterLab in Chromium, through what a person sees: cards, cells, menus, dialogs."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.server import RunningServer

OURS = "Python (Backend.AI)"
FLAGS = (
    "--no-sandbox",  # root needs it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)
WITHIN_MS = 30_000.0
NEWS_QUESTION = "config/lab/user-settings/@jupyterlab/apputils-extension"


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium; playwright's own is never downloaded."""
    path = shutil.which("chromium")
    assert path, "the tests of JupyterLab need Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


def lab_server(root: Path, *, config: str = "") -> RunningServer:
    """Return JupyterLab on a short-named directory, its question about news answered."""
    settings = root / NEWS_QUESTION
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    return RunningServer(root, config=f"c = get_config()\n{config}\n", module="jupyterlab")


class Lab:
    """One browser window with JupyterLab in it; ``problems`` is what its console complained of."""

    def __init__(self, page: Page, server: RunningServer) -> None:
        self.page = page
        self.server = server
        self.problems: list[str] = []
        page.set_default_timeout(WITHIN_MS)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("console", self._on_console)

    def _on_console(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        where = getattr(message, "location", {}).get("url", "")
        if kind in {"error", "warning"}:
            self.problems.append(f"{kind}: {text} ({where})")

    async def open(self, path: str = "") -> Self:
        """Load JupyterLab, with a notebook if ``path`` is one, and wait until it is drawn."""
        tree = f"/tree/{path}" if path else ""
        await self.page.goto(f"{self.server.url}lab{tree}?token={self.server.token}")
        await self.page.locator("#jp-main-dock-panel").wait_for()
        return self

    def card(self, name: str, *, category: str = "Notebook") -> Locator:
        """Return the launcher's card of a kernel."""
        return self.page.locator(f'.jp-LauncherCard[data-category="{category}"][title="{name}"]')

    @property
    def files(self) -> Locator:
        """Return the names in the file browser."""
        return self.page.locator(".jp-DirListing-itemName")

    @property
    def crumbs(self) -> Locator:
        """Return where the file browser is, as ``/data/``."""
        return self.page.locator(".jp-FileBrowser-crumbs")

    @property
    def notebook(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:visible")

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".jp-Dialog-content")

    async def start_notebook(self, name: str = OURS) -> None:
        """Click a card and wait until the notebook's kernel is idle."""
        await self.card(name).click()
        await self.is_idle(name)

    async def is_idle(self, name: str = OURS) -> None:
        """Wait until the kernel can be used: JupyterLab forgets cells that are run before."""
        status = self.page.locator("#jp-main-statusbar")
        await expect(status).to_contain_text(f"{name} | Idle", timeout=WITHIN_MS)

    async def run(self, code: str) -> Locator:
        """Run ``code`` in the last cell, which adds another; return where its output appears."""
        cells = self.notebook.locator(".jp-CodeCell")
        number = await cells.count() - 1
        await cells.nth(number).locator(".cm-content").click()
        await self.page.keyboard.insert_text(code)
        await self.page.keyboard.press("Shift+Enter")
        await expect(cells).to_have_count(number + 2)
        return cells.nth(number).locator(".jp-Cell-outputArea")

    async def choose(self, menu: str, entry: str) -> None:
        """Choose an entry of the menu bar, such as ``Kernel`` and ``Interrupt Kernel``."""
        await self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{menu}$")).click()
        shown = self.page.locator(".lm-Menu-item:visible")
        await shown.filter(has_text=re.compile(f"^{re.escape(entry)}")).first.click()

    async def answer(self, button: str) -> None:
        """Press a button of the dialog that is open, and wait until it has gone."""
        await self.dialog.locator("button", has_text=re.compile(f"^{button}$")).click()
        await expect(self.dialog).to_have_count(0)


async def write_notebook(server: RunningServer, path: str, *, backendai: object = None) -> None:
    """Put an empty notebook for our kernel there, asking for something in its metadata."""
    metadata: dict[str, object] = {
        "kernelspec": {"name": "backendai-python", "display_name": OURS, "language": "python"}
    }
    if backendai is not None:
        metadata["backendai"] = backendai
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": ""}
    cell |= {"outputs": [], "execution_count": None}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [cell]}
    model = {"type": "notebook", "format": "json", "content": content}
    answer = await server.request("PUT", f"api/contents/{path}", content=json.dumps(model))
    assert answer.is_success, answer.text
