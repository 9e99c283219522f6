"""What the directory of a kernel process tells, also when it tells of times gone by."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.kernel_dir import KernelDir, remove_tree


@pytest.fixture
def kernel(tmp_path: Path) -> KernelDir:
    kernel = KernelDir(tmp_path / "k", "k", 4, "k-abc")
    kernel.create()
    return kernel


def test_what_was_written_is_read_again(kernel: KernelDir) -> None:
    assert KernelDir.read(kernel.path) == kernel


@pytest.mark.parametrize("text", ["", "{", "{}", '{"kernel_id": "k"}'])
def test_a_directory_that_was_not_finished_tells_of_no_kernel(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert KernelDir.read(tmp_path) is None


def test_a_pid_that_has_become_somebody_elses_is_not_the_keeper(kernel: KernelDir) -> None:
    (kernel.path / "keeper").write_text(f"{os.getpid()} 1")
    (kernel.path / "child").write_text(f"{os.getpid()}")
    assert kernel.open_keeper() is None
    assert kernel.send(signal.SIGKILL) is False
    kernel.kill_all()  # we are still here


def test_a_program_whose_end_nobody_recorded_was_killed(kernel: KernelDir) -> None:
    assert kernel.exit_code() == 137


def test_the_recorded_end_is_kept(kernel: KernelDir) -> None:
    (kernel.path / "exit").write_text("3")
    assert kernel.exit_code() == 3


def test_the_tail_of_the_log_goes_back_into_the_part_before(kernel: KernelDir) -> None:
    (kernel.path / "log.1").write_text("first ")
    (kernel.path / "log").write_text("second")
    assert kernel.log_tail(9) == b"st second"
    assert kernel.log_tail(100) == b"first second"
    assert kernel.log_tail(0) == b""


def test_a_tree_is_removed_though_its_owner_closed_it(tmp_path: Path) -> None:
    closed = tmp_path / "tree" / "closed"
    (closed / "deeper").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path)
    closed.chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert tmp_path.exists()
