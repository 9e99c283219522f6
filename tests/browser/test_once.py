"""A page that stays open shows every line once: what was under way is neither lost nor doubled.

So it is for what is confirmed by pongs (decision 019) and known to the extension (027).
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from playwright.async_api import Locator, expect

from tests.acceptance.links import LinkThatVanishes
from tests.browser.conftest import OpenWindow
from tests.browser.lab import AWAY, Lab, lab_server
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

LINES = 20_000
PRINT_LINES = f"for number in range({LINES}):\n    print(number, flush=True)"
WITHIN_MS = 120_000.0


async def flooded(lab: Lab) -> Locator:
    """Run a cell that prints the numbers, and return its output once there is some."""
    await lab.open()
    await lab.start_notebook()
    output = await lab.run(PRINT_LINES)
    await expect(output).to_contain_text("1000\n")
    return output


async def has_ended(server: RunningServer) -> bool:
    """Return whether all lines are printed."""
    (kernel,) = (await server.get("api/kernels")).json()
    return bool(kernel["execution_state"] == "idle")


async def shows_every_line_once(output: Locator) -> None:
    await expect(output).to_contain_text(f"{LINES - 1}\n", timeout=WITHIN_MS)
    assert (await output.inner_text()).split() == [str(number) for number in range(LINES)]


async def test_a_link_that_vanishes(open_window: OpenWindow, server: RunningServer) -> None:
    async with LinkThatVanishes.to(server.url) as link, open_window(server) as lab:
        lab.expected_problems = AWAY
        lab.url = link.url
        output = await flooded(lab)
        await link.vanish(at_once=True)
        await eventually(lambda: has_ended(server), within_s=60)
        link.forget()
        await shows_every_line_once(output)
        await expect(await lab.run("print(number)")).to_have_text(f"{LINES - 1}")


async def test_a_server_that_is_killed(open_window: OpenWindow, short_tmp_path: Path) -> None:
    config = "c.BackendAIAgent.runtime = 'process'"
    server = lab_server(short_tmp_path, config=config, kernels_outlive=True)
    async with server, open_window(server) as lab:
        lab.expected_problems = AWAY
        output = await flooded(lab)
        await server.restart(signal.SIGKILL)
        await shows_every_line_once(output)
