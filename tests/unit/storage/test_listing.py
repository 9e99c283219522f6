"""Looking into directories and making them, where a kernel may have put anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.domain.vfolders import Permission
from backendai_jupyter.errors import Conflict, NotFound, Refused
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.storage.listing import Kind, entries, make_directories


def home_of(root: Path, permission: Permission = Permission.READ_WRITE) -> Home:
    directory = root / "u" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    folder = VFolder("1", "u", "data", "local", str(directory), 0.0, permission)
    return Home([folder], {"local": VFolderHost("local", root)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    home_of(tmp_path)
    return tmp_path / "u" / "1"


def test_a_directory_is_listed_by_name_with_what_each_entry_is(tmp_path: Path, data: Path) -> None:
    (data / "b.txt").write_text("four")
    (data / "a").mkdir()
    (data / ".hidden").touch()
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    with home_of(tmp_path).spot(["data"]) as spot:
        found = entries(spot)
    assert [(entry.name, entry.kind) for entry in found] == [
        (".hidden", Kind.FILE),
        ("a", Kind.DIRECTORY),
        ("b.txt", Kind.FILE),
        ("link", Kind.LINK),
        ("pipe", Kind.OTHER),
    ]
    assert found[2].size_bytes == 4
    assert found[2].modified_at == (data / "b.txt").stat().st_mtime


def test_a_name_that_no_client_could_say_is_left_out(tmp_path: Path, data: Path) -> None:
    Path(os.fsdecode(bytes(data) + b"/\xff")).touch()
    with home_of(tmp_path).spot(["data"]) as spot:
        assert entries(spot) == []


def test_what_is_no_directory_cannot_be_listed(tmp_path: Path, data: Path) -> None:
    (data / "file").touch()
    home = home_of(tmp_path)
    with home.spot(["data", "file"]) as spot, pytest.raises(Conflict, match="not a directory"):
        entries(spot)
    with home.spot(["data", "none"]) as spot, pytest.raises(NotFound):
        entries(spot)


def test_directories_are_made_with_those_above_them(tmp_path: Path, data: Path) -> None:
    for _ in range(2):
        make_directories(home_of(tmp_path), ["data", "a", "b"])
    assert (data / "a" / "b").is_dir()
    make_directories(home_of(tmp_path), ["data"])


def test_a_file_in_the_way_is_said_to_be_one(tmp_path: Path, data: Path) -> None:
    (data / "a").touch()
    with pytest.raises(Conflict, match="'data/a' is not a directory"):
        make_directories(home_of(tmp_path), ["data", "a", "b"])


def test_no_directory_is_made_through_a_link_that_leads_out(tmp_path: Path, data: Path) -> None:
    (data / "out").symlink_to(tmp_path)
    with pytest.raises(NotFound):
        make_directories(home_of(tmp_path), ["data", "out", "new"])
    assert not (tmp_path / "new").exists()


def test_no_directory_is_made_in_a_read_only_folder(tmp_path: Path, data: Path) -> None:
    with pytest.raises(Refused):
        make_directories(home_of(tmp_path, Permission.READ_ONLY), ["data", "a"])
