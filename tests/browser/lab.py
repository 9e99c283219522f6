"""JupyterLab in Chromium, through what a person sees: cards, cells, menus, dialogs."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    async_playwright,
    expect,
)

from tests.server import RunningServer

OURS = "Python (Backend.AI)"
LOCAL = "Python 3 (ipykernel)"
FLAGS = (
    "--no-sandbox",  # root needs it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)
AWAY = ("net::ERR_", "WebSocket connection", "Failed to fetch", "NetworkError")
"""What the console says while the server is away."""
WITHIN_MS = 30_000.0
WIDTH, HEIGHT = 1200, 750
NOTIFICATION_SETTINGS = "config/lab/user-settings/@jupyterlab/apputils-extension"

expect.set_options(timeout=WITHIN_MS)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the system's Chromium; playwright's own is never downloaded."""
    path = shutil.which("chromium")
    assert path, "the tests of JupyterLab need Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


def lab_server(root: Path, *, config: str = "", kernels_outlive: bool = False) -> RunningServer:
    """Return JupyterLab, not started yet."""
    do_without_news(root)
    return RunningServer(
        root,
        config=f"c = get_config()\n{config}\n",
        module="jupyterlab",
        kernels_outlive=kernels_outlive,
    )


def do_without_news(root: Path) -> None:
    """Let JupyterLab not ask whether its user wants to read news."""
    settings = root / NOTIFICATION_SETTINGS
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')


class Lab:
    """One browser window with JupyterLab in it.

    It comes from ``url``, its server's or a link's.  ``problems`` is what its console calls
    errors, except for what contains one of ``expected_problems``.
    """

    def __init__(self, page: Page, server: RunningServer) -> None:
        self.page = page
        self.server = server
        self.url = server.url
        self.problems: list[str] = []
        self.expected_problems: tuple[str, ...] = ()
        page.set_default_timeout(WITHIN_MS)
        page.on("pageerror", self._on_uncaught)
        page.on("console", self._on_console)

    def _on_uncaught(self, error: Error) -> None:
        self._note(f"uncaught: {error}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location['url']})")

    def _note(self, problem: str) -> None:
        if not any(expected in problem for expected in self.expected_problems):
            self.problems.append(problem)

    async def open(self, path: str = "") -> None:
        """Load JupyterLab in a clean workspace, and open a file or directory if one is named."""
        tree = f"/tree/{quote(path)}" if path else ""
        await self.page.goto(f"{self.url}lab{tree}?token={self.server.token}&reset")
        await self.page.locator("#jp-main-dock-panel").wait_for()

    def card(self, name: str, *, category: str = "Notebook") -> Locator:
        """Return the launcher's card of a kernel."""
        return self.page.locator(f'.jp-LauncherCard[data-category="{category}"][title="{name}"]')

    def file(self, name: str) -> Locator:
        """Return an entry of the file browser."""
        names = self.page.locator(".jp-DirListing-itemName")
        return names.filter(has_text=re.compile(f"^{re.escape(name)}$"))

    @property
    def crumbs(self) -> Locator:
        """Return where the file browser is, as ``/data/``."""
        return self.page.locator(".jp-FileBrowser-crumbs")

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".jp-Dialog-content")

    async def start_notebook(self, kernel: str = OURS) -> None:
        """Click a card and wait until the notebook's kernel is idle."""
        await self.card(kernel).click()
        await self.is_idle(kernel)

    async def is_idle(self, kernel: str = OURS) -> None:
        """Wait until the kernel can be used: JupyterLab forgets cells that are run before."""
        status = self.page.locator("#jp-main-statusbar")
        await expect(status).to_contain_text(f"{kernel} | Idle")

    async def run(self, code: str) -> Locator:
        """Run ``code`` in the last cell, which adds another; return where its output appears."""
        cells = self.page.locator(".jp-NotebookPanel:visible .jp-CodeCell")
        number = await cells.count() - 1
        await cells.nth(number).locator(".cm-content").click()
        await self.page.keyboard.insert_text(code)
        await self.page.keyboard.press("Shift+Enter")
        await expect(cells).to_have_count(number + 2)
        return cells.nth(number).locator(".jp-Cell-outputArea")

    async def choose(self, menu: str, entry: str) -> None:
        """Choose an entry of the menu bar, such as ``Kernel`` and ``Interrupt Kernel``."""
        await self.page.locator(".lm-MenuBar-item").get_by_text(menu, exact=True).click()
        await self.page.locator(".lm-Menu-itemLabel:visible").get_by_text(entry, exact=True).click()

    async def answer(self, button: str) -> None:
        """Press a button of the dialog that is open, and wait until that one has gone."""
        open_now = await self.dialog.element_handle()
        label = self.dialog.locator(".jp-Dialog-buttonLabel")
        await label.filter(has_text=re.compile(f"^{button}$")).click()
        await open_now.wait_for_element_state("hidden")  # what it says next may be there already


async def write_notebook(server: RunningServer, path: str, *, backendai: object) -> None:
    """Put an empty notebook there that asks for something in its metadata."""
    kernelspec = {"name": "backendai-python", "display_name": OURS, "language": "python"}
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": "", "outputs": []}
    metadata = {"kernelspec": kernelspec, "backendai": backendai}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata}
    content["cells"] = [cell | {"execution_count": None}]
    model = {"type": "notebook", "format": "json", "content": content}
    answer = await server.request("PUT", f"api/contents/{quote(path)}", content=json.dumps(model))
    assert answer.is_success, answer.text
