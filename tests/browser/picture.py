"""Take the picture in README.md: ``python -m tests.browser.picture``.

It shows JupyterLab with a notebook whose kernel is a container of the tests' engine.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import expect

from tests.browser.lab import WIDTH, Lab, chromium, lab_server, write_notebook
from tests.engine import PrivateEngine

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/images/lab.png"
DATA = ROOT / "docs/examples/river.csv"
HEIGHT = 640
MAX_BYTES = 150_000

IN_A_CONTAINER = """\
import os, socket
print("host", socket.gethostname(), "- user", os.getuid(), "- directory", os.getcwd())
print("inside a Docker container:", os.path.exists("/.dockerenv"))"""
A_PLOT = """\
import pandas as pd
river = pd.read_csv("river.csv", parse_dates=["date"], index_col="date")
river["level_cm"].plot(figsize=(9, 2.6), title="level (cm)");"""


def main() -> None:
    engine = PrivateEngine()
    try:
        engine.start()
        engine.ensure_images(["python"])
        asyncio.run(_take(engine.url))
    finally:
        engine.stop()
    size = PICTURE.stat().st_size
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: {size} bytes\n")
    assert size <= MAX_BYTES, f"a README's picture has at most {MAX_BYTES} bytes"


async def _take(docker_url: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    config = f"c.BackendAIAgent.runtime = 'docker'\nc.BackendAIAgent.docker_url = {docker_url!r}"
    try:
        async with lab_server(root, config=config) as server, chromium() as browser:
            file = {"type": "file", "format": "text", "content": DATA.read_text()}
            await server.request("PUT", f"api/contents/data/{DATA.name}", json=file)
            await write_notebook(server, "data/river.ipynb", backendai={})
            page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            lab = Lab(page, server)
            await lab.open("data/river.ipynb")
            await lab.is_idle()
            await expect(await lab.run(IN_A_CONTAINER)).to_contain_text("container: True")
            await expect((await lab.run(A_PLOT)).locator("img")).to_be_visible()
            await lab.choose("File", "Save Notebook")
            await expect(lab.page.locator("#jp-main-statusbar")).to_contain_text("Saving completed")
            PICTURE.parent.mkdir(exist_ok=True)
            await page.screenshot(path=PICTURE)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
