"""What an agent puts beside a kernel: private, importable, and where it belongs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backendai_jupyter.agent.kernel_files import deliver, write_private
from backendai_jupyter.agent.node import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "run", tmp_path / "scratch", os.getuid(), os.getgid())


def test_what_is_delivered_is_the_kernels_alone(tmp_path: Path, node: Node) -> None:
    for _ in range(2):  # also where an earlier generation's is
        deliver(tmp_path, node)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    programs = {f"kernel_{part}.py" for part in ("output", "delivery", "reply", "members")}
    assert found == dict.fromkeys(programs | {"kernel_lib.zip"}, 0o600)


def test_kernels_import_the_package_without_ours(tmp_path: Path, node: Node) -> None:
    deliver(tmp_path, node)
    program = (
        "import sys; import backendai_members as members; "
        "print(members.here(), [name for name in sys.modules if 'backendai_jupyter' in name])"
    )
    environment = {"PYTHONPATH": str(tmp_path / "kernel_lib.zip"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("main1 []\n", "")


@pytest.mark.parametrize("name", ["key", "key.partial"])
def test_a_link_that_a_kernel_has_put_there_leads_nowhere(
    tmp_path: Path, node: Node, name: str
) -> None:
    run_dir, other = tmp_path / "kernel", tmp_path / "other"
    run_dir.mkdir()
    other.write_text("the node's")
    (run_dir / name).symlink_to(other)
    write_private(run_dir / "key", b"secret", node)
    assert other.read_text() == "the node's"
    assert [(path.name, path.read_text()) for path in run_dir.iterdir()] == [("key", "secret")]
    assert not (run_dir / "key").is_symlink()
