"""What is written for a kernel's limits, and what is said where nothing can be."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.cgroups import Cgroups, find_cgroups
from backendai_jupyter.agent.runtime.limits import (
    MAX_PROCESSES,
    Limits,
    enter_command,
    limit_notes,
    thread_env,
)
from backendai_jupyter.domain.resources import Slots

MIB = 1024 * 1024
ALL = ("memory", "cpu", "pids")
LIMITS = Limits(128 * MIB, Decimal("1.5"))


def test_a_kernel_without_amounts_is_limited_in_processes_only() -> None:
    assert Limits.of(Slots()) == Limits(None, None, MAX_PROCESSES)


def test_version_2_has_one_directory_for_all_limits(tmp_path: Path) -> None:
    base = tmp_path / "backendai"
    cgroups = Cgroups(dict.fromkeys(ALL, base), version=2)
    for file in ("memory.max", "memory.swap.max", "cpu.max", "pids.max"):
        (base / "k").mkdir(parents=True, exist_ok=True)
        (base / "k" / file).touch()
    assert cgroups.create("k", LIMITS) == (base / "k" / "cgroup.procs",)
    assert written(base / "k") == {
        "memory.max": str(128 * MIB),
        "memory.swap.max": "0",
        "cpu.max": "150000 100000",
        "pids.max": str(MAX_PROCESSES),
    }


def test_version_1_has_a_directory_for_each_limit(tmp_path: Path) -> None:
    bases = {controller: tmp_path / controller for controller in ALL}
    (tmp_path / "memory/k").mkdir(parents=True)
    (tmp_path / "memory/k/memory.memsw.limit_in_bytes").touch()
    procs = Cgroups(bases, version=1).create("k", LIMITS)
    assert sorted(procs) == sorted(base / "k" / "cgroup.procs" for base in bases.values())
    assert [written(bases[controller] / "k") for controller in ALL] == [
        {
            "memory.limit_in_bytes": str(128 * MIB),
            "memory.memsw.limit_in_bytes": str(128 * MIB),
        },
        {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
        {"pids.max": str(MAX_PROCESSES)},
    ]


def test_without_swap_accounting_memory_alone_is_limited(tmp_path: Path) -> None:
    Cgroups({"memory": tmp_path}, version=2).create("k", LIMITS)
    assert written(tmp_path / "k") == {"memory.max": str(128 * MIB)}


def test_a_share_of_a_cpu_too_small_for_linux_becomes_the_smallest(tmp_path: Path) -> None:
    Cgroups({"cpu": tmp_path}, version=2).create("k", Limits(None, Decimal("0.001")))
    assert written(tmp_path / "k") == {"cpu.max": "1000 100000"}


@pytest.mark.parametrize(
    ("version", "file", "text", "killed"),
    [
        (2, "memory.events", "max 9\noom 1\noom_kill 1\n", True),
        (2, "memory.events", "max 9\noom 0\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", False),
    ],
)
def test_the_end_for_want_of_memory_is_read_from_the_cgroup(
    tmp_path: Path, version: int, file: str, text: str, killed: bool
) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / file).write_text(text)
    assert Cgroups({"memory": tmp_path}, version=version).oom_killed("k") is killed


@pytest.mark.parametrize("marker", ["cgroup.controllers", "memory"])
def test_nothing_is_enforced_where_no_process_can_be_put_into_a_cgroup(
    tmp_path: Path, marker: str
) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    root.mkdir()
    (root / marker).touch()
    own.write_text("0::/user.slice/app.slice/agent.service\n")
    assert find_cgroups("backendai", root=root, own=own).enforced == frozenset()


def test_each_limit_that_is_not_enforced_has_its_own_sentence() -> None:
    assert limit_notes(frozenset(ALL)) == ()
    notes = limit_notes(frozenset())
    assert [note.split()[0] for note in notes] == ["Memory", "Kernels", "The"]
    assert all(note.endswith(".") for note in notes)
    assert limit_notes(frozenset({"memory", "pids"})) == notes[1:2]


def test_memory_is_limited_for_each_process_where_there_is_no_cgroup() -> None:
    assert "ulimit -d 131072\n" in enter_command(LIMITS, (), rlimit_memory=True)[2]
    assert "ulimit -d" not in enter_command(LIMITS, (), rlimit_memory=False)[2]
    assert "ulimit -d" not in enter_command(Limits(None, None), (), rlimit_memory=True)[2]


@pytest.mark.parametrize(("cpus", "threads"), [("0.5", "1"), ("2", "2"), ("2.5", "3")])
def test_threads_are_as_many_as_cpus_rounded_up(cpus: str, threads: str) -> None:
    assert thread_env(Limits(None, Decimal(cpus))) == {"OMP_NUM_THREADS": threads}


def test_threads_are_left_alone_without_a_cpu_limit() -> None:
    assert thread_env(Limits(None, None)) == {}


def written(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}
