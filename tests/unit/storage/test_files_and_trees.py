"""Files and directories at a spot: replaced whole, copied whole, removed whole, or untouched."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from backendai_jupyter.errors import BackendError, Conflict, InvalidInput, NotFound, Refused
from backendai_jupyter.storage import files, removal, trees
from backendai_jupyter.storage.beneath import MAX_DEPTH, Home, Spot
from backendai_jupyter.storage.hosts import VFolderHost
from tests.unit.storage.conftest import KERNEL

Two = Callable[[Spot, Spot], None]


def read(home: Home, path: str) -> bytes:
    with home.spot(path.split("/")) as spot, files.reading(spot) as file:
        return file.read()


def write(home: Home, path: str, data: bytes) -> None:
    with home.spot(path.split("/")) as spot, files.replacing(spot) as file:
        file.write(data)


def both(work: Two, home: Home, old: str, new: str) -> None:
    with (
        home.spot(old.split("/"), follow=False) as source,
        home.spot(new.split("/"), follow=False) as target,
    ):
        work(source, target)


def remove(home: Home, path: str) -> None:
    with home.spot(path.split("/"), follow=False) as spot:
        trees.remove(spot)


def test_a_file_is_replaced_and_not_written_into(home: Home, data: Path) -> None:
    (data / "a.txt").write_text("old")
    (data / "second name").hardlink_to(data / "a.txt")
    write(home, "data/a.txt", b"new")
    assert (data / "a.txt").read_bytes() == b"new"
    assert (data / "second name").read_text() == "old"
    assert (data / "a.txt").stat().st_uid == KERNEL


def test_a_file_that_is_replaced_loses_what_would_give_rights(home: Home, data: Path) -> None:
    (data / "a.sh").touch()
    (data / "a.sh").chmod(0o6755)
    write(home, "data/a.sh", b"#!/bin/sh")
    assert (data / "a.sh").stat().st_mode & 0o7777 == 0o755


def test_links_within_the_folders_are_written_through(home: Home, data: Path, extra: Path) -> None:
    (extra / "real.txt").write_text("old")
    (data / "link.txt").symlink_to("/home/work/extra/real.txt")
    write(home, "data/link.txt", b"new")
    assert (data / "link.txt").is_symlink()
    assert (extra / "real.txt").read_text() == "new"


def test_a_link_into_a_read_only_folder_is_no_way_to_write_there(
    home: Home, data: Path, host: VFolderHost
) -> None:
    fixed = host.folder_path("me", "fixed")
    (fixed / "real.txt").write_text("old")
    (data / "link.txt").symlink_to("../fixed/real.txt")
    (data / "dir").symlink_to("/home/work/fixed")
    for path in ("data/link.txt", "data/dir/real.txt", "data/dir/new.txt"):
        with pytest.raises(Refused, match="'fixed' is read-only"):
            write(home, path, b"new")
    assert [path.name for path in fixed.iterdir()] == ["real.txt"]
    assert (fixed / "real.txt").read_text() == "old"


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a directory"])
def test_what_is_no_file_is_neither_read_nor_written(
    home: Home, data: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data / "thing"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    else:
        monkeypatch.chdir(data)  # the name of a socket may have 107 bytes only
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("thing")
    for attempt in (lambda: read(home, "data/thing"), lambda: write(home, "data/thing", b"x")):
        with pytest.raises(InvalidInput, match=kind):
            attempt()


def test_a_second_name_of_a_foreign_file_is_refused_and_of_an_own_one_is_not(
    home: Home, data: Path, secret: Path
) -> None:
    (data / "own.txt").write_text("own")
    os.chown(data / "own.txt", KERNEL, KERNEL)
    (data / "own too.txt").hardlink_to(data / "own.txt")
    assert read(home, "data/own too.txt") == b"own"
    os.chown(secret / "key.txt", KERNEL + 1 if os.geteuid() == 0 else KERNEL, KERNEL)
    (data / "key.txt").hardlink_to(secret / "key.txt")
    if os.geteuid() == 0:
        with pytest.raises(Refused, match="somebody else owns"):
            read(home, "data/key.txt")
        with pytest.raises(Refused, match="somebody else owns"):
            both(trees.copy, home, "data/key.txt", "extra/key.txt")


@pytest.mark.parametrize("work", [trees.copy, trees.move], ids=["copy", "move"])
def test_nothing_takes_a_place_that_is_taken(
    home: Home, data: Path, extra: Path, work: Two
) -> None:
    for path in (data / "a", extra / "a"):
        path.write_text(str(path))
    (data / "dir").mkdir()
    (extra / "dir").mkdir()
    for name in ("a", "dir"):
        with pytest.raises(Conflict, match=f"'extra/{name}' already"):
            both(work, home, f"data/{name}", f"extra/{name}")
    assert (extra / "a").read_text() == str(extra / "a")
    assert (data / "a").exists()


@pytest.mark.parametrize("work", [trees.copy, trees.move], ids=["copy", "move"])
def test_a_directory_arrives_with_all_that_is_in_it(
    home: Home, data: Path, extra: Path, host: VFolderHost, work: Two
) -> None:
    (data / "dir" / "deep").mkdir(parents=True)
    (data / "dir" / "deep" / "a.sh").write_text("a")
    (data / "dir" / "deep" / "a.sh").chmod(0o755)
    (data / "dir" / "link").symlink_to("../nowhere")
    os.utime(data / "dir" / "deep" / "a.sh", (1, 2))
    both(work, home, "data/dir", "extra/dir")
    copied = extra / "dir" / "deep" / "a.sh"
    assert copied.read_text() == "a"
    assert copied.stat().st_mode & 0o777 == 0o755
    assert copied.stat().st_mtime == 2
    assert str((extra / "dir" / "link").readlink()) == "../nowhere"
    assert (data / "dir").exists() == (work is trees.copy)
    assert list(host.staging.iterdir()) == []


def test_a_copied_directory_leaves_out_what_is_no_file(home: Home, data: Path) -> None:
    (data / "dir").mkdir()
    os.mkfifo(data / "dir" / "pipe")
    (data / "dir" / "a.txt").touch()
    both(trees.copy, home, "data/dir", "data/copy")
    assert [path.name for path in (data / "copy").iterdir()] == ["a.txt"]


def test_a_directory_is_neither_moved_nor_lost_into_itself(home: Home, data: Path) -> None:
    (data / "dir" / "inner").mkdir(parents=True)
    with pytest.raises(BackendError):
        both(trees.move, home, "data/dir", "data/dir/inner/dir")
    both(trees.copy, home, "data/dir", "data/dir/inner/dir")
    assert sorted(p.name for p in (data / "dir").rglob("*")) == ["dir", "inner", "inner"]


def test_a_removed_link_leaves_what_it_led_to(home: Home, data: Path) -> None:
    (data / "dir").mkdir()
    (data / "dir" / "a.txt").touch()
    (data / "link").symlink_to("dir")
    remove(home, "data/link")
    assert sorted(path.name for path in data.rglob("*")) == ["a.txt", "dir"]


def test_a_removed_directory_does_not_take_with_it_what_its_links_lead_to(
    home: Home, data: Path, secret: Path, host: VFolderHost
) -> None:
    (data / "dir").mkdir()
    (data / "dir" / "out").symlink_to(secret)
    (data / "dir" / "shut").mkdir(mode=0o000)
    remove(home, "data/dir")
    assert list(data.iterdir()) == []
    assert list(host.staging.iterdir()) == []
    assert (secret / "key.txt").read_text() == "the key"


def test_directories_deeper_than_python_can_recurse_are_removed_and_measured(
    home: Home, data: Path, host: VFolderHost
) -> None:
    deep(data / "deep", 3_000)
    assert trees.usage(str(data)).files == MAX_DEPTH
    with pytest.raises(Conflict, match="too deep"):
        both(trees.copy, home, "data/deep", "extra/deep")
    remove(home, "data/deep")
    assert list(data.iterdir()) == []
    assert list(host.staging.iterdir()) == []


def test_a_folder_is_removed_by_its_path_once_and_again(data: Path, host: VFolderHost) -> None:
    deep(data / "deep", 1_500)
    removal.remove_path(data, host.staging)
    assert not data.exists()
    removal.remove_path(data, host.staging)
    removal.remove_path(host.checkpoints / "no such folder", host.staging)


def test_what_a_killed_server_left_is_swept_after_a_day(data: Path, host: VFolderHost) -> None:
    (host.staging / "left").mkdir()
    (host.staging / "left" / "a.txt").touch()
    removal.sweep(host.staging)
    assert [path.name for path in host.staging.iterdir()] == ["left"]
    removal.sweep(host.staging, now=(host.staging / "left").stat().st_ctime + 90_000)
    assert list(host.staging.iterdir()) == []


def test_usage_counts_a_file_with_two_names_once_and_no_link(data: Path) -> None:
    (data / "sub").mkdir()
    (data / "sub" / "a.bin").write_bytes(b"x" * 10_000)
    (data / "b.bin").hardlink_to(data / "sub" / "a.bin")
    (data / "link").symlink_to("sub/a.bin")
    usage = trees.usage(str(data))
    assert usage.size_bytes - (data / "link").lstat().st_size == 10_000
    assert usage.files == 2


def test_what_is_gone_is_not_found(home: Home) -> None:
    for attempt in (
        lambda: read(home, "data/none"),
        lambda: remove(home, "data/none"),
        lambda: both(trees.copy, home, "data/none", "data/new"),
        lambda: both(trees.move, home, "data/none", "data/new"),
    ):
        with pytest.raises(NotFound):
            attempt()


def deep(top: Path, levels: int) -> None:
    """Nest directories, with a file in each."""
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        os.mkdir("d", dir_fd=directory)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
