"""Which file is copied where by ``vfolder upload`` and ``download``; here without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from traitlets.config import Config

from backendai_jupyter.cli.copying import Interrupted, on_thread
from backendai_jupyter.cli.local_folders import LocalFolders
from backendai_jupyter.cli.transfer import Place, Plan, plan_download, plan_upload
from backendai_jupyter.errors import Conflict, InvalidInput, NotFound, Refused
from backendai_jupyter.web.vfolder_models import NewVFolder, VFolderChange

DATA = Place("data", "")


@pytest.fixture
async def folders(short_tmp_path: Path) -> AsyncIterator[LocalFolders]:
    """The folders of a new machine: there is one, ``data``."""
    config = Config()
    config.BackendAI.data_dir = str(short_tmp_path / "backendai")
    folders = LocalFolders(config)
    (short_tmp_path / "backendai").mkdir()
    await folders.create(NewVFolder(name="extra"))
    yield folders
    await folders.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """``top`` with a file, an empty directory, and a directory with a file and a link."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_text("a")
    (top / "sub" / "b.txt").write_text("bb")
    (top / "sub" / "link").symlink_to("b.txt")
    return top


def moves(plan: Plan) -> list[tuple[str, str]]:
    return sorted((file.local.name, file.remote.path) for file in plan.files)


def ignore(count: int) -> None:
    """Progress that nobody wants to see."""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data", Place("data", "")),
        ("data:", Place("data", "")),
        ("data:a/b.txt", Place("data", "a/b.txt")),
        ("data:/a/", Place("data", "a")),
        ("Bär:x:y", Place("Bär", "x:y")),
    ],
)
def test_a_place_is_a_folder_and_a_path(text: str, place: Place) -> None:
    assert Place.parse(text) == place


def test_a_place_without_a_folder_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Place.parse(":a.txt")


async def test_a_file_goes_into_a_directory_or_becomes_what_is_named(
    folders: LocalFolders, source: Path
) -> None:
    file = source / "a.txt"
    await folders.make_directory("data", "there")
    for target, into, path in (
        (DATA, False, "a.txt"),
        (DATA.below("there"), False, "there/a.txt"),
        (DATA.below("new.txt"), False, "new.txt"),
        (DATA.below("new"), True, "new/a.txt"),
    ):
        assert moves(await plan_upload(folders, [file], target, into=into)) == [("a.txt", path)]


async def test_a_directory_goes_with_all_in_it(folders: LocalFolders, source: Path) -> None:
    plan = await plan_upload(folders, [source], DATA, into=False)
    assert moves(plan) == [("a.txt", "top/a.txt"), ("b.txt", "top/sub/b.txt")]
    assert plan.left_out == [str(source / "sub" / "link")]
    assert [entry.name for entry in (await folders.entries("data", "top")).root] == ["empty", "sub"]
    renamed = await plan_upload(folders, [source], DATA.below("else"), into=False)
    assert moves(renamed) == [("a.txt", "else/a.txt"), ("b.txt", "else/sub/b.txt")]


async def test_what_went_up_comes_down_again(
    folders: LocalFolders, source: Path, tmp_path: Path
) -> None:
    for file in (await plan_upload(folders, [source], DATA, into=False)).files:
        await folders.upload(file.local, "data", file.remote.path, moved=ignore)
    down = tmp_path / "down"
    for file in (await plan_download(folders, DATA, down)).files:
        await folders.download("data", file.remote.path, file.local, moved=ignore)
    assert sorted(str(path.relative_to(down)) for path in down.rglob("*")) == [
        "top",
        "top/a.txt",
        "top/empty",
        "top/sub",
        "top/sub/b.txt",
    ]
    assert (down / "top/sub/b.txt").read_text() == "bb"


async def test_a_download_goes_into_a_directory_that_is_there(
    folders: LocalFolders, source: Path, tmp_path: Path
) -> None:
    await folders.upload(source / "a.txt", "data", "a.txt", moved=ignore)
    plan = await plan_download(folders, DATA.below("a.txt"), tmp_path)
    assert [file.local for file in plan.files] == [tmp_path / "a.txt"]
    plan = await plan_download(folders, DATA, tmp_path)
    assert [file.local for file in plan.files] == [tmp_path / "data" / "a.txt"]


async def test_progress_is_reported_in_bytes(folders: LocalFolders, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 2_500_000)
    seen: list[int] = []
    await folders.upload(big, "data", "big", moved=seen.append)
    assert seen == [1 << 20, 2 << 20, 2_500_000]


async def test_work_that_nobody_waits_for_ends_with_its_next_report() -> None:
    reports = []

    def work(report: object) -> None:
        reports.append(report)

    await on_thread(work, ignore)
    [report] = reports
    assert callable(report)
    with pytest.raises(Interrupted):
        report(1)


async def test_what_cannot_be_copied_is_refused(folders: LocalFolders, source: Path) -> None:
    file = source / "a.txt"
    with pytest.raises(NotFound):
        await folders.upload(file, "data", "none/a.txt", moved=ignore)
    with pytest.raises(NotFound):
        await folders.upload(file, "none", "a.txt", moved=ignore)
    with pytest.raises(NotFound):
        await folders.download("data", "none", source / "x", moved=ignore)
    await folders.upload(file, "data", "file", moved=ignore)
    with pytest.raises(Conflict):
        await plan_upload(folders, [file], DATA.below("file"), into=True)
    await folders.change("data", VFolderChange.model_validate({"permission": "ro"}))
    with pytest.raises(Refused):
        await folders.upload(file, "data", "b.txt", moved=ignore)
    assert not (source / "x").exists()
