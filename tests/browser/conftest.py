"""Fixtures of the browser tests: one Chromium and one server for all, a window for each."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.lab import HEIGHT, WIDTH, Lab, chromium, lab_server
from tests.server import RunningServer

OpenWindow = Callable[[RunningServer], Awaitable[Lab]]


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


@pytest_asyncio.fixture(loop_scope="module")
async def open_window(browser: Browser, tmp_path: Path) -> AsyncIterator[OpenWindow]:
    """Open windows; each leaves a picture and no kernel, and fails the test for what it logged."""
    windows: list[Lab] = []

    async def open_one(server: RunningServer) -> Lab:
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        windows.append(Lab(page, server))
        return windows[-1]

    yield open_one
    for number, window in enumerate(windows):
        picture = tmp_path / f"window-{number}.png"
        await window.page.screenshot(path=picture)
        sys.stderr.write(f"what the window showed at the end: {picture}\n")
        await window.page.close()
    assert [problem for window in windows for problem in window.problems] == []


@pytest_asyncio.fixture(loop_scope="module")
async def lab(open_window: OpenWindow, server: RunningServer) -> AsyncIterator[Lab]:
    """A window on the shared server."""
    yield await open_window(server)
    for session in (await server.get("api/sessions")).json():
        await server.delete(f"api/sessions/{session['id']}")
