"""Take the pictures of folders in the documentation: ``python -m tests.browser.folder_pictures``.

One shows the list of folders, the other a folder after files were dropped into it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import expect

from tests.browser.file_browser import FileBrowser, make_folder
from tests.browser.lab import WIDTH, Lab, chromium, lab_server, write_notebook
from tests.server import RunningServer

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
FOLDERS, UPLOAD = IMAGES / "folders.png", IMAGES / "upload.png"
EXAMPLES = ROOT / "docs/examples"
HEIGHT, LOW = 640, 440
MAX_BYTES = 400_000

WHICH = """\
import os
from pathlib import Path
for folder in sorted(Path.home().glob("[!.]*")):
    print(f"{folder.name:12}", "read-write" if os.access(folder, os.W_OK) else "read-only")"""
A_PLOT = """\
import pandas as pd
river = pd.read_csv("/home/work/reference/river.csv", parse_dates=["date"], index_col="date")
river["level_cm"].plot(figsize=(9, 2.1), title="level (cm)");"""
A_TABLE = """\
import pandas as pd
pd.read_csv("rides.csv").tail(4)"""


def main() -> None:
    asyncio.run(_take())
    for picture in (FOLDERS, UPLOAD):
        size = picture.stat().st_size
        sys.stdout.write(f"{picture.relative_to(ROOT)}: {size} bytes\n")
        assert size <= MAX_BYTES, f"a picture has at most {MAX_BYTES} bytes"


async def _take() -> None:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    config = "c.BackendAIAgent.runtime = 'process'"
    try:
        async with lab_server(root, config=config) as server, chromium() as browser:
            await _fill(server)
            page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            files = FileBrowser(Lab(page, server))
            await _take_folders(files)
            await _take_upload(files, root / "desktop")
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def _fill(server: RunningServer) -> None:
    for name in ("models", "Käse & Brot"):
        await make_folder(server, name)
    reference = await make_folder(server, "reference")
    reference.write("river.csv", (EXAMPLES / "river.csv").read_text())
    await reference.protect()
    await write_notebook(server, "data/river.ipynb", backendai={})
    await write_notebook(server, "data/rides.ipynb", backendai={})


async def _take_folders(files: FileBrowser) -> None:
    await files.lab.open("data/river.ipynb")
    await files.lab.is_idle()
    await files.leave()
    await expect(await files.lab.run(WHICH)).to_contain_text("reference    read-only")
    await expect((await files.lab.run(A_PLOT)).locator("img")).to_be_visible()
    await _save(files)
    await files.page.screenshot(path=FOLDERS)


async def _take_upload(files: FileBrowser, desktop: Path) -> None:
    photos = desktop / "photos"
    photos.mkdir(parents=True)
    (photos / "a.jpg").touch()
    (desktop / "recording.wav").write_bytes(bytes(12_000_000))
    await files.page.set_viewport_size({"width": WIDTH, "height": LOW})
    await files.lab.open("data/rides.ipynb")
    await files.lab.is_idle()
    await files.drop([EXAMPLES / "rides.csv", desktop / "recording.wav", photos])
    await expect(files.lab.file("recording.wav")).to_be_visible()
    await expect(await files.lab.run("!ls -sh")).to_contain_text("12M recording.wav")
    await expect(await files.lab.run(A_TABLE)).to_contain_text("station")
    await files.page.screenshot(path=UPLOAD)


async def _save(files: FileBrowser) -> None:
    await files.lab.choose("File", "Save Notebook")
    await expect(files.page.locator("#jp-main-statusbar")).to_contain_text("Saving completed")


if __name__ == "__main__":
    main()
