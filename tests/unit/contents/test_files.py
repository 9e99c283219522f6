"""Files in folders: reading, writing, and whose they are afterwards."""

# jupyter_server and nbformat carry no types:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_server.services.contents.handlers import validate_model
from tornado import web

from backendai_jupyter.contents.manager import VFolderContentsManager
from backendai_jupyter.storage.files import replacing
from tests.unit.contents.small_backend import KERNEL, SmallBackend, entries, owners


def text(content: str) -> dict[str, str]:
    return {"type": "file", "format": "text", "content": content}


def notebook(source: str) -> dict[str, object]:
    cells = [nbformat.v4.new_code_cell(source)]
    return {
        "type": "notebook",
        "format": "json",
        "content": nbformat.v4.new_notebook(cells=cells),
    }


async def test_a_file_is_where_the_kernel_has_it(
    contents: VFolderContentsManager, data: Path
) -> None:
    saved = await contents.save(text("a\nb\n"), "/data/a.txt")
    validate_model(saved)
    assert (data / "a.txt").read_bytes() == b"a\nb\n"
    (data / "sub").mkdir()
    (data / "sub" / "b.txt").write_text("from the kernel")
    found = await contents.get("data/sub/b.txt")
    validate_model(found, expect_content=True)
    assert (found["path"], found["content"]) == ("data/sub/b.txt", "from the kernel")
    listed = await contents.get("data")
    assert sorted(entry["path"] for entry in listed["content"]) == ["data/a.txt", "data/sub"]


async def test_a_notebook_survives_saving_and_reading(contents: VFolderContentsManager) -> None:
    await contents.save(notebook("print(1)"), "data/nb.ipynb")
    model = await contents.get("data/nb.ipynb", require_hash=True)
    validate_model(model, expect_content=True, expect_hash=True)
    assert model["content"].cells[0].source == "print(1)"


async def test_an_unreadable_notebook_is_named_as_the_browser_calls_it(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "nb.ipynb").write_text("not json")
    with pytest.raises(web.HTTPError, match=r"data/nb\.ipynb") as refused:
        await contents.get("data/nb.ipynb")
    assert refused.value.status_code == 400
    assert str(data) not in str(refused.value)


async def test_everything_made_belongs_to_the_owner_of_the_folder(
    contents: VFolderContentsManager, data: Path, extra: Path
) -> None:
    await contents.save(text("x"), "data/file.txt")
    await contents.save(notebook("1"), "data/nb.ipynb")
    await contents.save({"type": "directory"}, "data/dir")
    await contents.new_untitled("data", type="directory")
    await contents.save({**text("1"), "chunk": 1}, "data/big.txt")
    await contents.save({**text("2"), "chunk": -1}, "data/big.txt")
    await contents.save(text("y"), "data/dir/inner.txt")
    await contents.copy("data/file.txt", "extra")
    await contents.copy("data/dir", "extra")
    assert owners(data, extra) == [KERNEL] * 9
    assert (data / "big.txt").read_text() == "12"


async def test_what_is_moved_into_the_folder_of_another_owner_gets_that_owner(
    contents: VFolderContentsManager, data: Path, extra: Path
) -> None:
    other = KERNEL if os.geteuid() else KERNEL + 1  # only root can give a folder away
    os.chown(extra, other, other)
    (data / "dir" / "deep").mkdir(parents=True)
    (data / "dir" / "deep" / "file.txt").write_text("moved")
    await contents.rename("data/dir", "extra/dir")
    assert owners(extra) == [other] * 3
    assert (extra / "dir" / "deep" / "file.txt").read_text() == "moved"
    assert entries(data) == []


async def test_what_is_moved_takes_no_place_that_is_taken(
    contents: VFolderContentsManager, data: Path, extra: Path
) -> None:
    (data / "a.txt").write_text("a")
    (extra / "a.txt").write_text("b")
    with pytest.raises(web.HTTPError, match="already") as refused:
        await contents.rename("data/a.txt", "extra/a.txt")
    assert refused.value.status_code == 409
    assert (extra / "a.txt").read_text() == "b"


async def test_saving_again_keeps_the_mode(contents: VFolderContentsManager, data: Path) -> None:
    script = data / "run.sh"
    script.write_text("old")
    script.chmod(0o750)
    await contents.save(text("new"), "data/run.sh")
    assert script.read_text() == "new"
    assert script.stat().st_mode & 0o7777 == 0o750
    assert script.stat().st_uid == KERNEL
    assert entries(data) == ["run.sh"]


async def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend
) -> None:
    (data / "a.txt").write_text("old")
    home = await backend.manager.vfolders.home(backend.manager.viewer)
    with (
        home.spot(("data", "a.txt")) as spot,
        pytest.raises(ZeroDivisionError),
        replacing(spot) as file,
    ):
        file.write(b"half of the n")
        file.flush()
        raise ZeroDivisionError
    assert (data / "a.txt").read_text() == "old"
    assert entries(data) == ["a.txt"]
    assert entries(backend.host.staging) == []


async def test_what_is_read_only_on_disk_is_read_only_here(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.txt").write_text("old")
    (data / "a.txt").chmod(0o444)
    (data / "shut").mkdir()
    (data / "shut").chmod(0o555)
    assert (await contents.get("data/a.txt"))["writable"] is False
    assert (await contents.get("data/shut"))["writable"] is False
    for path in ("data/a.txt", "data/shut/b.txt"):
        with pytest.raises(web.HTTPError, match="is read-only") as refused:
            await contents.save(text("new"), path)
        assert refused.value.status_code == 403
    assert (data / "a.txt").read_text() == "old"


async def test_a_chunked_upload_is_seen_only_when_it_is_complete(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend
) -> None:
    (data / "a.txt").write_text("old")
    await contents.save({**text("1"), "chunk": 1}, "data/a.txt")
    so_far = await contents.save({**text("2"), "chunk": 2}, "data/a.txt")
    validate_model(so_far)
    assert so_far["size"] == 2
    assert (data / "a.txt").read_text() == "old"
    await contents.save({**text("3"), "chunk": -1}, "data/a.txt")
    assert (data / "a.txt").read_text() == "123"
    assert entries(backend.host.staging) == []


async def test_a_chunk_out_of_turn_is_refused_and_ends_the_upload(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend
) -> None:
    with pytest.raises(web.HTTPError, match="start it again"):
        await contents.save({**text("2"), "chunk": 2}, "data/a.txt")
    await contents.save({**text("1"), "chunk": 1}, "data/a.txt")
    with pytest.raises(web.HTTPError, match=r"Chunk 3 .* came after 1") as refused:
        await contents.save({**text("3"), "chunk": 3}, "data/a.txt")
    assert refused.value.status_code == 409
    assert entries(data) == []
    assert entries(backend.host.staging) == []


async def test_an_upload_begun_again_forgets_the_first_attempt(
    contents: VFolderContentsManager, data: Path
) -> None:
    await contents.save({**text("lost"), "chunk": 1}, "data/a.txt")
    await contents.save({**text("1"), "chunk": 1}, "data/a.txt")
    await contents.save({**text("2"), "chunk": -1}, "data/a.txt")
    assert (data / "a.txt").read_text() == "12"


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"type": "file", "format": "text"}, "content"),
        ({"type": "file", "format": "utf-16", "content": "x"}, "format"),
        ({"type": "file", "content": "x"}, "format"),
        ({"type": "file", "format": "base64", "content": "x"}, "content"),
        ({"type": "file", "format": "text", "content": ["x"]}, "content"),
        ({"type": "notebook", "content": "x"}, "content"),
        ({"type": "notebook", "content": {"cells": 1}}, "content"),
        ({"type": "thing", "content": "x"}, "type"),
        ({"content": "x"}, "type"),
        ({"type": "file", "format": "text", "content": "x", "chunk": "1"}, "chunk"),
        ({"type": "file", "format": "text", "content": "x", "chunk": 0}, "chunk"),
    ],
)
async def test_a_malformed_model_is_refused_naming_the_field(
    model: dict[str, object], field: str, contents: VFolderContentsManager, data: Path
) -> None:
    with pytest.raises(web.HTTPError, match=f"{field}: ") as refused:
        await contents.save(model, "data/a.txt")
    assert refused.value.status_code == 400
    assert entries(data) == []


async def test_bytes_that_are_no_text_come_as_base64_and_go_back_the_same(
    contents: VFolderContentsManager, data: Path
) -> None:
    raw = bytes(range(256)) * 3
    (data / "a.bin").write_bytes(raw)
    model = await contents.get("data/a.bin")
    assert (model["format"], model["mimetype"]) == ("base64", "application/octet-stream")
    await contents.save(model, "data/b.bin")
    assert (data / "b.bin").read_bytes() == raw
    with pytest.raises(web.HTTPError, match="not UTF-8"):
        await contents.get("data/a.bin", format="text")


async def test_a_trusted_notebook_stays_trusted_and_another_is_not(
    contents: VFolderContentsManager, data: Path
) -> None:
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), data / "nb.ipynb"
    )
    assert not _is_trusted(await contents.get("data/nb.ipynb"))
    await contents.trust_notebook("data/nb.ipynb")
    assert _is_trusted(await contents.get("data/nb.ipynb"))


def _is_trusted(model: dict[str, object]) -> bool:
    content: Any = model["content"]
    return bool(content.cells[0].metadata["trusted"])


async def test_deleting_really_deletes(contents: VFolderContentsManager, data: Path) -> None:
    (data / "full").mkdir()
    (data / "full" / "a.txt").touch()
    (data / "link").symlink_to("full")
    await contents.delete("data/link")
    assert entries(data) == ["full"]
    await contents.delete("data/full")
    assert entries(data) == []


async def test_a_link_within_the_folder_works(contents: VFolderContentsManager, data: Path) -> None:
    (data / "real").mkdir()
    (data / "link").symlink_to("real")
    await contents.save(text("x"), "data/link/a.txt")
    (data / "alias.txt").symlink_to("real/a.txt")
    await contents.save(text("y"), "data/alias.txt")
    assert (data / "real" / "a.txt").read_text() == "y"
    assert (data / "alias.txt").is_symlink()
    assert (await contents.get("data/link/a.txt"))["content"] == "y"


async def test_pipes_and_unspeakable_names_are_not_listed_and_harm_nothing(
    contents: VFolderContentsManager, data: Path
) -> None:
    os.mkfifo(data / "pipe")
    (data / os.fsdecode(b"caf\xe9")).touch()
    (data / ".hidden").touch()
    (data / "kept.txt").touch()
    listed = await contents.get("data")
    assert [entry["name"] for entry in listed["content"]] == ["kept.txt"]
    for refused in (contents.get("data/pipe"), contents.save(text("x"), "data/pipe")):
        with pytest.raises(web.HTTPError):
            await refused


async def test_a_name_too_long_is_not_there(contents: VFolderContentsManager) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await contents.get(f"data/{'x' * 300}")
    assert refused.value.status_code == 404


async def test_the_kernel_of_a_notebook_works_in_its_directory(
    contents: VFolderContentsManager, data: Path, backend: SmallBackend
) -> None:
    (data / "sub").mkdir()
    (data / "sub" / "nb.ipynb").touch()
    assert await contents.get_kernel_path("data/sub/nb.ipynb") == "data/sub"
    assert await contents.get_kernel_path("console-1") == ""
    assert contents.host_directory("data/sub") == str(data / "sub")
    assert contents.host_directory("/data/sub/gone/further") == str(data / "sub")
    assert contents.host_directory("") == str(data)
    assert contents.host_directory("nowhere/at/all") == str(data)
    assert contents.host_directory("../../etc") == str(data)


@pytest.mark.parametrize(
    ("seen", "path"),
    [
        ("/home/work/data/a.py", "data/a.py"),
        ("~/data/a.py", "data/a.py"),
        ("data/a.py", "data/a.py"),
        ("/home/work/data/gone.py", None),
        ("/etc/passwd", None),
    ],
)
async def test_a_path_in_a_traceback_leads_to_the_file(
    seen: str, path: str | None, contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.py").touch()
    assert await contents.resolve_path(seen) == path


async def test_a_hash_is_that_of_the_bytes_with_and_without_the_content(
    contents: VFolderContentsManager, data: Path
) -> None:
    (data / "a.bin").write_bytes(b"\xff" * 100_000)
    whole = await contents.get("data/a.bin", require_hash=True)
    alone = await contents.get("data/a.bin", content=False, require_hash=True)
    validate_model(alone, expect_hash=True)
    assert whole["hash"] == alone["hash"] == hashlib.sha256(b"\xff" * 100_000).hexdigest()
