"""Files of a folder as a person works with them: notebooks, kernels, copies, checkpoints."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Locator, Response, expect

from tests.browser.file_browser import FileBrowser, Folder, make_folder
from tests.browser.lab import Lab, write_notebook
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_new_notebook_is_saved_in_its_folder(files: FileBrowser, folder: Folder) -> None:
    await files.open(folder.name)
    await files.lab.start_notebook()
    await expect(await files.lab.run("6 * 7")).to_contain_text("42")
    await files.page.keyboard.press("Control+s")
    name = files.lab.dialog.locator("input[type=text]")
    await name.fill("Grüße.ipynb")
    await files.lab.answer("Rename and Save")
    await expect(files.names).to_have_text(["Grüße.ipynb"])
    cell, *_ = await eventually(lambda: json.loads(folder.read("Grüße.ipynb"))["cells"])
    assert (cell["source"], cell["outputs"][0]["data"]["text/plain"]) == (["6 * 7"], ["42"])
    assert folder.tree() == {"Grüße.ipynb"}


async def test_a_file_of_a_kernel_appears_and_its_change_is_noticed_when_an_editor_saves(
    files: FileBrowser, folder: Folder
) -> None:
    await files.open(folder.name)
    await files.lab.start_notebook()
    await files.lab.run("open('notes.txt', 'w').write('first')")
    await expect(files.lab.file("notes.txt")).to_be_visible()
    await files.enter("notes.txt")
    await expect(editor(files.lab)).to_have_text("first")
    await turn_to(files.lab, "Untitled.ipynb")
    output = await files.lab.run("open('notes.txt', 'w').write('by the kernel')")
    await expect(output).to_contain_text("13")
    await turn_to(files.lab, "notes.txt")
    await type_into(files.lab, "mine")
    await files.page.keyboard.press("Control+s")
    await expect(files.lab.dialog).to_contain_text("File Changed")
    assert folder.read("notes.txt") == "by the kernel"
    await files.lab.answer("Overwrite")
    await eventually(lambda: folder.read("notes.txt") == "mine")


async def test_files_and_directories_are_copied_within_a_folder_and_across_folders(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    other = await make_folder(server)
    folder.write("a.txt", "a")
    folder.write("sub/deep/b.txt", "b")
    await files.open(folder.name)
    await files.choose("a.txt", "Copy")
    await files.paste()
    await expect(files.names).to_have_text(["sub", "a-Copy1.txt", "a.txt"])
    await files.choose("a.txt", "Duplicate")
    await expect(files.lab.file("a-Copy2.txt")).to_be_visible()
    await files.choose("sub", "Copy")
    await files.leave()
    await files.enter(other.name)
    await files.paste()
    await expect(files.names).to_have_text(["sub"])
    assert other.contents() == {"sub/deep/b.txt": b"b"}
    names = ("a.txt", "a-Copy1.txt", "a-Copy2.txt")
    assert folder.contents() == dict.fromkeys(names, b"a") | other.contents()


async def test_cut_and_paste_moves_across_folders(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    other = await make_folder(server)
    folder.write("a.txt", "a")
    folder.write("sub/b.txt", "b")
    await files.open(folder.name)
    await files.lab.file("a.txt").click()
    await files.lab.file("sub").click(modifiers=["Control"])
    await files.choose("sub", "Cut")
    await files.leave()
    await files.enter(other.name)
    await files.paste()
    await expect(files.names).to_have_text(["sub", "a.txt"])
    assert other.contents() == {"a.txt": b"a", "sub/b.txt": b"b"}
    assert folder.tree() == set()


async def test_deleting_removes_a_file_and_a_directory_with_all_in_it(
    files: FileBrowser, folder: Folder
) -> None:
    for path in ("keep.txt", "a.txt", "sub/deep/b.txt", "sub/.hidden"):
        folder.write(path, "x")
    await files.open(folder.name)
    await files.choose("a.txt", "Delete")
    await files.lab.answer("Delete")
    await files.choose("sub", "Delete")
    await files.lab.answer("Delete")
    await expect(files.names).to_have_text(["keep.txt"])
    assert folder.tree() == {"keep.txt"}


async def test_open_from_path_opens_a_file_of_a_folder(files: FileBrowser, folder: Folder) -> None:
    folder.write("sub/x.txt", "found")
    await files.open("")
    await files.lab.choose("File", "Open from Path…")
    await files.lab.dialog.locator("input").fill(f"{folder.name}/sub/x.txt")
    await files.lab.answer("Open")
    await expect(editor(files.lab)).to_have_text("found")
    await expect(files.lab.crumbs).to_have_text(f"/{folder.name}/sub/")


async def test_a_click_on_a_path_in_a_traceback_opens_that_file(
    files: FileBrowser, folder: Folder
) -> None:
    folder.write("lib/mod.py", "def fail():\n    raise ValueError('here')\n")
    folder.write("lib/__init__.py", "")
    await files.open(folder.name)
    await files.lab.start_notebook()
    output = await files.lab.run("from lib.mod import fail; fail()")
    await expect(output).to_contain_text("ValueError: here")
    await output.get_by_role("link", name=f"~/{folder.name}/lib/mod.py:2").click()
    await expect(editor(files.lab)).to_contain_text("raise ValueError('here')")
    await expect(files.page.locator("#jp-main-statusbar")).to_contain_text("Ln 2")


async def test_a_protected_folder_can_be_read_and_says_that_it_cannot_be_written(
    files: FileBrowser, folder: Folder, server: RunningServer
) -> None:
    # The second: JupyterLab's New Folder shows the reason in a dialog and also throws it.
    files.lab.expected_problems = ("403 (Forbidden)", "uncaught: The folder")
    folder.write("fixed.txt", "fixed")
    await write_notebook(server, f"{folder.name}/fixed.ipynb", backendai={})
    await folder.protect()
    before = folder.contents()
    await files.open(folder.name)
    await files.enter("fixed.txt")
    await expect(editor(files.lab)).to_have_text("fixed")
    label = files.page.locator(".jp-ToolbarLabelComponent:visible")
    await expect(label).to_have_text("file is read-only")
    await type_into(files.lab, "changed")
    await files.page.keyboard.press("Control+s")
    await expect(files.page.locator(".Toastify__toast")).to_contain_text("fixed.txt is read-only")
    await files.press("New Folder")
    await expect(files.lab.dialog).to_contain_text(f"The folder '{folder.name}' is read-only.")
    await files.lab.answer("Close")
    await files.choose("fixed.txt", "Delete")
    await files.lab.answer("Delete")
    await expect(files.lab.dialog).to_contain_text(f"The folder '{folder.name}' is read-only.")
    await files.lab.answer("Close")
    await files.enter("fixed.ipynb")
    await expect(label).to_have_text("notebook is read-only")
    await files.lab.is_idle()
    await expect(await files.lab.run("open('fixed.txt').read()")).to_contain_text("fixed")
    await expect(await files.lab.run("open('fixed.txt', 'w')")).to_contain_text("Read-only file")
    assert folder.contents() == before


async def test_a_file_goes_back_to_its_checkpoint_of_which_nothing_is_in_the_folder(
    files: FileBrowser, folder: Folder
) -> None:
    folder.write("sub/notes.txt", "old")
    await files.open(f"{folder.name}/sub")
    await files.enter("notes.txt")
    for text in ("first", "second"):
        await type_into(files.lab, text)
        async with files.page.expect_response(makes_checkpoint):
            await files.lab.choose("File", "Save Text")
        assert folder.read("sub/notes.txt") == text
    await type_into(files.lab, "not saved")
    folder.write("sub/notes.txt", "by somebody else")
    await files.lab.choose("File", "Revert Text to Checkpoint…")
    await expect(files.lab.dialog).to_contain_text("Revert Text to checkpoint")
    await files.lab.answer("Revert")
    await expect(editor(files.lab)).to_have_text("second")
    assert folder.contents() == {"sub/notes.txt": b"second"}
    assert folder.tree() == {"sub", "sub/notes.txt"}


def makes_checkpoint(answer: Response) -> bool:
    """Whether this ends a save: JupyterLab makes the checkpoint last, and shows nothing of it."""
    return answer.request.method == "POST" and "/checkpoints?" in answer.url


def editor(lab: Lab) -> Locator:
    """Return what the text editor in front shows."""
    return lab.page.locator(".jp-FileEditor:visible .cm-content")


async def turn_to(lab: Lab, name: str) -> None:
    """Click the tab of a file that is open."""
    await lab.page.locator(".lm-TabBar-tabLabel").get_by_text(name, exact=True).click()


async def type_into(lab: Lab, text: str) -> None:
    """Replace all that the text editor in front shows."""
    await editor(lab).click()
    await lab.page.keyboard.press("Control+a")
    await lab.page.keyboard.insert_text(text)
