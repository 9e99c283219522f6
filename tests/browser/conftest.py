"""Fixtures of the browser tests: one Chromium and one server for all, a window for each."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.file_browser import FileBrowser, Folder, make_folder
from tests.browser.lab import HEIGHT, WIDTH, Lab, chromium, lab_server
from tests.server import RunningServer

OpenWindow = Callable[[RunningServer], AbstractAsyncContextManager[Lab]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    """JupyterLab whose kernels are processes."""
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    try:
        async with lab_server(root, config="c.BackendAIAgent.runtime = 'process'") as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def open_window(browser: Browser, tmp_path: Path) -> OpenWindow:
    """Open windows; each leaves a picture of its end, and fails the test for what it logged."""
    numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def window(server: RunningServer) -> AsyncIterator[Lab]:
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        lab = Lab(page, server)
        try:
            yield lab
        finally:
            picture = tmp_path / f"window-{next(numbers)}.png"
            await page.screenshot(path=picture)
            sys.stderr.write(f"what the window showed at the end: {picture}\n")
            await page.close()
        assert lab.problems == []

    return window


@pytest_asyncio.fixture(loop_scope="module")
async def lab(open_window: OpenWindow, server: RunningServer) -> AsyncIterator[Lab]:
    """A window on the shared server, whose kernels end with it."""
    async with open_window(server) as window:
        yield window
    for session in (await server.get("api/sessions")).json():
        await server.delete(f"api/sessions/{session['id']}")


@pytest.fixture
def files(lab: Lab) -> FileBrowser:
    """The file browser of the window ``lab``."""
    return FileBrowser(lab)


@pytest_asyncio.fixture(loop_scope="module")
async def folder(server: RunningServer) -> Folder:
    """An empty virtual folder on the shared server."""
    return await make_folder(server)
