"""Where a path leads beneath the folders of a viewer, and where it must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.errors import NotFound, Unavailable
from backendai_jupyter.storage.beneath import MAX_DEPTH, Home
from backendai_jupyter.storage.hosts import VFolderHost


def found(home: Home, path: str, *, follow: bool = True) -> str:
    """Return the contents path of the spot that ``path`` leads to."""
    with home.spot(path.split("/"), follow=follow) as spot:
        return spot.path


@pytest.fixture(autouse=True)
def tree(data: Path, extra: Path, secret: Path) -> None:
    """What a kernel has made in its folders."""
    (data / "sub" / "deep").mkdir(parents=True)
    (data / "a.txt").write_text("a")
    (extra / "b.txt").write_text("b")
    for name, target in {
        "to-sub": "sub",
        "to-deep": "to-sub/deep",
        "sub/up": "..",
        "sub/deep/to-a": "../../a.txt",
        "beside": "../extra/b.txt",
        "absolute": "/home/work/extra/b.txt",
        "absolute-dir": "/home/work/data/sub/",
        "winding": "sub/../sub/deep/../../../extra/./b.txt",
        "dangling": "sub/none",
        "self": "self",
        "out": str(secret),
        "out-by-dots": "../../../../../../etc/passwd",
        "out-of-home": "/home/work/../../etc/passwd",
        "home-itself": "/home/work",
        "other-home": "/home/worker/x",
    }.items():
        (data / name).symlink_to(target)


@pytest.mark.parametrize(
    ("path", "spot"),
    [
        ("data", "data"),
        ("data/a.txt", "data/a.txt"),
        ("data/./sub//deep/", "data/sub/deep"),
        ("data/to-sub/deep", "data/sub/deep"),
        ("data/to-deep", "data/sub/deep"),
        ("data/sub/up", "data"),
        ("data/sub/up/a.txt", "data/a.txt"),
        ("data/sub/deep/to-a", "data/a.txt"),
        ("data/beside", "extra/b.txt"),
        ("data/absolute", "extra/b.txt"),
        ("data/absolute-dir/deep", "data/sub/deep"),
        ("data/winding", "extra/b.txt"),
        ("data/dangling", "data/sub/none"),
        ("data/new.txt", "data/new.txt"),
    ],
)
def test_a_path_leads_where_a_kernel_would_come(home: Home, path: str, spot: str) -> None:
    assert found(home, path) == spot


@pytest.mark.parametrize(
    "path",
    [
        "data/out",
        "data/out/key.txt",
        "data/out-by-dots",
        "data/out-of-home",
        "data/home-itself",
        "data/other-home",
        "data/self",
        "data/../../etc/passwd",
        "..",
        "",
        "none",
        "none/a.txt",
        "data/none/a.txt",
        "data/a.txt/b",
        "data/a\0b",
        "data/\ud800",
        f"data/{'x' * 256}",
        f"data/{'é' * 200}",
        "data/" + "/".join(["sub/.."] * 50 + ["to-sub"] * 50),
    ],
)
def test_a_path_that_leads_nowhere_or_out_is_not_found(home: Home, path: str) -> None:
    with pytest.raises(NotFound):
        found(home, path)


def test_a_link_is_itself_where_it_is_not_followed(home: Home) -> None:
    assert found(home, "data/out", follow=False) == "data/out"
    assert found(home, "data/to-sub", follow=False) == "data/to-sub"
    assert found(home, "data/to-sub/deep", follow=False) == "data/sub/deep"


def test_the_owner_is_the_one_of_the_folder_that_was_reached(home: Home, extra: Path) -> None:
    with home.spot(("data", "beside")) as spot:
        seen = extra.stat()
        assert spot.owner == (seen.st_uid, seen.st_gid)
        assert spot.folder.name == "extra"


def test_names_are_found_however_they_are_composed(host: VFolderHost, data: Path) -> None:
    home = Home([VFolder("1", "me", "caf\xe9", host.name, str(data), 0.0)], {host.name: host})
    assert found(home, "cafe\u0301/a.txt") == "caf\xe9/a.txt"


def test_directories_that_are_too_deep_are_not_found(home: Home, data: Path) -> None:
    directory = os.open(data, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 1):
        os.mkdir("d", dir_fd=directory)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
    deepest = "/".join(["data", *["d"] * MAX_DEPTH])
    assert found(home, deepest) == deepest
    with pytest.raises(NotFound, match="that deep"):
        found(home, f"{deepest}/d")


def test_a_folder_whose_host_is_away_says_so(home: Home, data: Path) -> None:
    data.rename(data.with_name("moved"))
    with pytest.raises(Unavailable, match="'data' cannot be opened"):
        found(home, "data/a.txt")


def test_a_folder_on_a_host_that_is_not_configured_says_so(host: VFolderHost, data: Path) -> None:
    home = Home([VFolder("1", "me", "data", "nfs", str(data), 0.0)], {host.name: host})
    with pytest.raises(Unavailable, match="on the host 'nfs'"):
        found(home, "data/a.txt")


def test_nothing_stays_open(home: Home) -> None:
    before = open_files()
    for path in ("data/winding", "data/out", "data/self", "data/none/x", "data/to-deep/x"):
        try:
            found(home, path)
        except NotFound:
            continue
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
