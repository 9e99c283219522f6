"""A page that stays open shows every line once, whatever becomes of its link or its server.

What the page has and has not confirmed is sent again: here some is, because from some moment on
none of its pongs arrives.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from playwright.async_api import Locator

from tests.acceptance.links import LinkThatVanishes
from tests.browser.conftest import OpenWindow
from tests.browser.lab import AWAY, Lab, lab_server
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

LINES = 20_000
PRINT_LINES = f"""
import time
for number in range(0, {LINES}, 10):
    print(*range(number, number + 10), sep="\\n", flush=True)
    time.sleep(0.003)
    if number == {LINES // 2}:
        open("half", "w").close()
"""
WITHIN_S = 120.0


async def shows(output: Locator, line: int) -> None:
    """Wait until the page has come to a line."""
    await output.page.wait_for_function(
        "([node, line]) => Number(node.textContent.slice(-20).trim().split(/\\s+/).pop()) >= line",
        arg=[await output.element_handle(), line],
        polling=200,
        timeout=WITHIN_S * 1000,
    )


async def half_printed(lab: Lab, link: LinkThatVanishes) -> Locator:
    """Run a cell that prints the lines and return its output.

    The page confirms next to nothing of it: the server soon waits, while the kernel goes on.
    """
    lab.url = link.url
    await lab.open()
    await lab.start_notebook()
    output = await lab.run(PRINT_LINES)
    await shows(output, 1000)
    await link.mute()

    async def is_half_printed() -> bool:
        return (await lab.server.get("api/contents/data/half")).is_success

    await eventually(is_half_printed, within_s=WITHIN_S)
    return output


async def has_ended(server: RunningServer) -> bool:
    """Return whether all lines are printed."""
    (kernel,) = (await server.get("api/kernels")).json()
    return bool(kernel["execution_state"] == "idle")


async def shows_every_line_once(output: Locator) -> None:
    await shows(output, LINES - 1)
    text = await output.inner_text()
    assert [int(line) for line in text.split()] == [*range(LINES)]


async def test_a_link_that_vanishes(open_window: OpenWindow, server: RunningServer) -> None:
    async with LinkThatVanishes.to(server.url) as link, open_window(server) as lab:
        lab.expected_problems = AWAY
        output = await half_printed(lab, link)
        await link.vanish()
        await eventually(lambda: has_ended(server), within_s=WITHIN_S)
        link.forget()
        await shows_every_line_once(output)


async def test_a_server_that_is_killed(open_window: OpenWindow, short_tmp_path: Path) -> None:
    config = "c.BackendAIAgent.runtime = 'process'"
    server = lab_server(short_tmp_path, config=config, kernels_outlive=True)
    async with server, LinkThatVanishes.to(server.url) as link, open_window(server) as lab:
        lab.expected_problems = AWAY
        output = await half_printed(lab, link)
        await server.restart(signal.SIGKILL)
        await shows_every_line_once(output)
