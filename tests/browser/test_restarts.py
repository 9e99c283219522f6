"""A page that stays open while its server is killed and comes back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenWindow
from tests.browser.lab import AWAY, lab_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = "import time\nfor i in range(120):\n    print(i)\n    time.sleep(0.1)"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_running_cell_goes_on_under_the_eyes_of_its_page(
    open_window: OpenWindow, short_tmp_path: Path, how: signal.Signals
) -> None:
    config = "c.BackendAIAgent.runtime = 'process'"
    server = lab_server(short_tmp_path, config=config, kernels_outlive=True)
    async with server, open_window(server) as lab:
        lab.expected_problems = AWAY
        await lab.open()
        await lab.start_notebook()
        await lab.run("x = 41")
        output = await lab.run(COUNT)
        await expect(output).to_contain_text("10\n")
        await server.restart(how)
        await expect(output).to_contain_text("119", timeout=60_000)
        assert (await output.inner_text()).split() == [str(i) for i in range(120)]
        if await lab.dialog.count():  # the server was away for longer than JupyterLab waits
            await lab.answer("Close")
        await lab.is_idle()
        await expect(await lab.run("print(x + 1)")).to_have_text("42")
