"""A person's first hour in JupyterLab: cards, cells, files, interrupts, crashes, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenWindow
from tests.browser.lab import LOCAL, OURS, Lab, lab_server, write_notebook
from tests.engine import PrivateEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHERE = "import os; print(os.getcwd(), os.getuid(), os.path.exists('/.dockerenv'))"
TOO_BIG = "x = bytearray(2 * 2**30); x[::4096] = b'1' * len(x[::4096])"


async def test_the_launcher_offers_our_kernel_beside_the_local_one_in_the_first_folder(
    lab: Lab,
) -> None:
    await lab.open()
    await expect(lab.crumbs).to_have_text("/data/")
    await expect(lab.page.locator(".jp-Launcher-cwd")).to_have_text("data")
    for category in ("Notebook", "Console"):
        await expect(lab.card(OURS, category=category)).to_be_visible()
        await expect(lab.card(LOCAL, category=category)).to_be_visible()
    await expect(lab.card(OURS).locator("img")).to_have_js_property("complete", True)
    await lab.page.locator(".jp-BreadCrumbs-home").first.click()
    await expect(lab.file("data")).to_be_visible()


async def test_local_kernels_can_be_hidden(open_window: OpenWindow, short_tmp_path: Path) -> None:
    config = "c.BackendAIAgent.runtime = 'process'\nc.BackendAI.hide_local_kernelspecs = True"
    async with lab_server(short_tmp_path, config=config) as server, open_window(server) as lab:
        await lab.open()
        await expect(lab.card(OURS)).to_be_visible()
        await expect(lab.card(LOCAL)).to_have_count(0)


async def test_a_card_opens_a_notebook_that_runs_in_its_folder_as_nobody_special(lab: Lab) -> None:
    await lab.open()
    await lab.start_notebook()
    output = await lab.run(WHERE)
    await expect(output).to_have_text("/home/work/data 1000 False")
    await lab.run("open('from-a-kernel.txt', 'w').close()")
    await expect(lab.file("from-a-kernel.txt")).to_be_visible()


async def test_a_notebook_runs_in_a_container(
    open_window: OpenWindow, short_tmp_path: Path, engine: PrivateEngine
) -> None:
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {engine.url!r}"
    async with lab_server(short_tmp_path, config=config) as server, open_window(server) as lab:
        await lab.open()
        await expect(lab.card("R (Backend.AI)")).to_be_visible()
        await lab.start_notebook()
        await expect(await lab.run(WHERE)).to_have_text("/home/work/data 1000 True")


async def test_interrupt_and_restart_from_the_menu(lab: Lab) -> None:
    await lab.open()
    await lab.start_notebook()
    output = await lab.run("import time; print('asleep', flush=True); time.sleep(600)")
    await expect(output).to_contain_text("asleep")
    await lab.choose("Kernel", "Interrupt Kernel")
    await expect(output).to_contain_text("KeyboardInterrupt")
    await expect(await lab.run("print('time' in globals())")).to_have_text("True")
    await lab.choose("Kernel", "Restart Kernel…")
    await lab.answer("Restart")
    await lab.is_idle()
    await expect(await lab.run("print('time' in globals())")).to_have_text("False")


async def test_a_cell_that_runs_out_of_memory_says_so_and_the_notebook_goes_on(lab: Lab) -> None:
    lab.expected_problems = ("Could not restore the debugger state",)  # also of local kernels
    await lab.open()
    await lab.start_notebook()
    output = await lab.run(TOO_BIG)
    await expect(output).to_contain_text("ran out of memory: it was killed at its limit of 1 GiB")
    await expect(lab.dialog).to_contain_text("It will restart automatically.")
    await lab.answer("Ok")
    await lab.is_idle()
    await expect(await lab.run("print('x' in globals())")).to_have_text("False")


async def test_a_widget_is_drawn_and_tells_the_kernel_what_is_done_to_it(lab: Lab) -> None:
    await lab.open()
    await lab.start_notebook()
    output = await lab.run("import ipywidgets; slider = ipywidgets.IntSlider(value=3); slider")
    await expect(output.locator(".widget-readout")).to_have_text("3")
    await output.locator(".noUi-handle").press("ArrowRight")
    await expect(output.locator(".widget-readout")).to_have_text("4")
    await expect(await lab.run("print(slider.value)")).to_have_text("4")


async def test_a_kernel_that_can_never_start_says_why_in_a_dialog(lab: Lab) -> None:
    # JupyterLab's own, for local kernels too, when the server refuses to start one.
    lab.expected_problems = ("api/sessions", "Cannot read properties of null (reading 'kernel')")
    await write_notebook(lab.server, "data/big.ipynb", backendai={"resources": {"cpu": 100_000}})
    await lab.open("data/big.ipynb")
    await expect(lab.dialog).to_contain_text("it asks for cpu 100000")
