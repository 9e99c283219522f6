"""Homes are measured in turn; a number that is too old is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.statistics import disk
from backendai_jupyter.agent.statistics.disk import Disk
from backendai_jupyter.storage.trees import disk_bytes
from tests.contract.clock import SettableClock

KIB = 1024


class Homes:
    def __init__(self, root: Path) -> None:
        self.clock = SettableClock()
        self.node = Node(root / "run", root / "scratch", os.getuid(), os.getgid())
        self.disk = Disk(self.node, clock=self.clock)

    def add(self, kernel_id: str, *, kib: int) -> Path:
        home = self.node.home_dir(kernel_id)
        home.mkdir(parents=True)
        (home / "file").write_bytes(b"x" * kib * KIB)
        return home


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


async def test_homes_are_measured_one_after_the_other(homes: Homes) -> None:
    homes.add("a", kib=100)
    homes.add("b", kib=300)
    homes.disk.watch(["a", "b"])
    found = []
    for _ in range(2):
        await homes.disk.step()
        found.append({id: homes.disk.home_bytes(id) for id in ("a", "b")})
    assert sorted(size or 0 for size in found[0].values())[0] == 0
    assert [(size or 0) // KIB for size in found[1].values()] == [100, 300]
    assert homes.disk.scratch is not None
    assert homes.disk.scratch.total_bytes > homes.disk.scratch.free_bytes > 0


async def test_a_home_is_measured_again_when_its_turn_comes(homes: Homes) -> None:
    home = homes.add("a", kib=4)
    homes.disk.watch(["a"])
    await homes.disk.step()
    before = homes.disk.home_bytes("a")
    (home / "more").write_bytes(b"x" * 64 * KIB)
    await homes.disk.step()  # it was only just measured
    assert homes.disk.home_bytes("a") == before
    homes.clock.now += disk.ROUND_S
    await homes.disk.step()
    assert (homes.disk.home_bytes("a") or 0) - (before or 0) == 64 * KIB


async def test_a_number_that_is_too_old_is_none(homes: Homes) -> None:
    homes.add("a", kib=4)
    homes.disk.watch(["a"])
    await homes.disk.step()
    homes.clock.now += disk.VALID_S
    assert (homes.disk.home_bytes("a"), homes.disk.scratch) == (None, None)


async def test_a_home_that_is_not_there_has_no_size(homes: Homes) -> None:
    homes.node.scratch_root.mkdir()
    homes.disk.watch(["a"])
    await homes.disk.step()
    assert homes.disk.home_bytes("a") is None


def test_more_names_than_there_is_time_for_are_not_counted(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).touch()
    assert disk_bytes(str(tmp_path), at_most=10) == 0
    assert disk_bytes(str(tmp_path), at_most=9) is None


def test_what_a_link_leads_to_does_not_count(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (other / "large").write_bytes(b"x" * 100 * KIB)
    (home / "link").symlink_to(other)
    assert (disk_bytes(str(home), at_most=10) or 0) < 100 * KIB
