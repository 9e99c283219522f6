"""A kernel that swaps directories for links while the server reads and writes: it gets nothing."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backendai_jupyter.contents import operations
from backendai_jupyter.domain.records import VFolder
from backendai_jupyter.errors import BackendError
from backendai_jupyter.storage.beneath import Home
from backendai_jupyter.storage.hosts import VFolderHost

ROUNDS = 3_000
WITHIN_S = 60.0
SECRET, HARMLESS = "the server's own secret", "nothing special"
# What is a directory or a file at one moment is a link to a secret one at the next, so that
# each step of a walk may find something else than the step before.
ATTACKER = """
import ctypes, os, sys
folder, secret, harmless = sys.argv[1:]
os.chdir(folder)
libc = ctypes.CDLL(None)
EXCHANGE, HERE = 2, -100
os.symlink(secret, "link")
place = os.open("place", os.O_PATH)
print("ready", flush=True)
while True:
    libc.renameat2(HERE, b"place", HERE, b"link", EXCHANGE)
    libc.renameat2(place, b"file.txt", place, b"other.txt", EXCHANGE)
    os.symlink(secret + "/file.txt", "new")
    os.rename("new", "file.txt")
    with open("new", "w") as file:
        file.write(harmless)
    os.rename("new", "file.txt")
"""


@pytest.fixture
def host(tmp_path: Path) -> VFolderHost:
    host = VFolderHost("local", tmp_path / "host")
    host.prepare()
    return host


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A directory of the server's that must be as it was, whatever has happened."""
    directory = tmp_path / "secret"
    directory.mkdir()
    for name in ("file.txt", "other.txt"):
        (directory / name).write_text(SECRET)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    yield directory
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    assert {path.read_text() for path in directory.iterdir()} == {SECRET}


@pytest.fixture
def folder(host: VFolderHost, secret: Path) -> Iterator[Path]:
    """A folder under attack, with ``place/file.txt`` and ``file.txt`` in it."""
    path = host.root / "me" / "folder"
    (path / "place").mkdir(parents=True)
    (path / "target").mkdir()
    for name in ("place/file.txt", "place/other.txt", "file.txt"):
        (path / name).write_text(HARMLESS)
    command = [sys.executable, "-c", ATTACKER, str(path), str(secret), HARMLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == b"ready\n"
        yield path
        assert attacker.poll() is None, "the attacker gave up"
        attacker.kill()


@pytest.fixture
def home(host: VFolderHost, folder: Path) -> Home:
    return Home([VFolder("1", "me", "data", host.name, str(folder), 0.0)], {host.name: host})


def attempt(work: Callable[[], object]) -> str:
    """Return whether the work was done or refused; anything else fails the test."""
    try:
        work()
    except BackendError:
        return "refused"
    return "done"


def race(work: Callable[[int], object], *, rounds: int = ROUNDS) -> None:
    """Try thousands of times, and until both have happened: else nobody has raced."""
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + WITHIN_S
    for n in itertools.count():
        if n >= rounds and len(seen) == 2:
            return
        assert time.monotonic() < deadline, f"after {n} rounds only {seen}"
        seen[attempt(lambda n=n: work(n))] += 1  # type: ignore[misc]


@pytest.mark.parametrize("path", ["data/place/file.txt", "data/file.txt"])
def test_no_reader_ever_sees_the_secret(home: Home, path: str) -> None:
    def read(n: int) -> None:
        _, raw = operations.read(home, path.split("/"), shown=bool)
        assert raw == HARMLESS.encode()

    race(read)


def test_no_listing_ever_shows_the_secret_directory(home: Home) -> None:
    def look(n: int) -> None:
        listed, _ = operations.read(home, ["data", "place"], shown=bool)
        assert all(entry["size"] == len(HARMLESS) for entry in listed["content"])

    race(look)


@pytest.mark.parametrize("path", ["data/place/file.txt", "data/place/new.txt", "data/file.txt"])
def test_no_writer_ever_writes_outside(home: Home, path: str) -> None:
    race(lambda _: operations.write(home, path.split("/"), HARMLESS.encode()))


def test_nothing_is_ever_made_outside(home: Home) -> None:
    race(lambda n: operations.make_directory(home, ["data", "place", f"made-{n}"]))


def test_nothing_is_ever_removed_outside(home: Home) -> None:
    def remove(n: int) -> None:
        operations.write(home, ["data", "place", "other.txt"], HARMLESS.encode())
        operations.remove(home, ["data", "place", "other.txt"])

    race(remove)


def test_nothing_is_ever_moved_out_or_in(home: Home) -> None:
    def move(n: int) -> None:
        operations.write(home, ["data", "target", f"{n}"], HARMLESS.encode())
        operations.move(home, ["data", "target", f"{n}"], ["data", "place", f"moved-{n}"])
        operations.move(home, ["data", "place", f"moved-{n}"], ["data", "target", f"back-{n}"])

    race(move)


def test_no_copied_directory_ever_holds_the_secret(home: Home, folder: Path) -> None:
    race(lambda n: operations.copy(home, ["data", "place"], ["data", f"copy-{n}"]), rounds=300)
    copied = [file.read_text() for file in folder.glob("copy-*/*")]
    assert set(copied) <= {HARMLESS}
