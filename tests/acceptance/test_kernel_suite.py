"""Jupyter's own suite for kernels passes unmodified through our provisioner."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    pytest.param("Python", "process", id="python in a process"),
    pytest.param("Python", "docker", id="python in docker", marks=pytest.mark.docker),
    pytest.param("R", "docker", id="r in docker", marks=pytest.mark.docker),
]


@pytest.mark.parametrize(("suite", "settings_file"), CASES, indirect=["settings_file"])
def test_the_kernel_suite(suite: str, settings_file: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", f"tests.acceptance.kernel_suites.{suite}"],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    counted = re.search(r"Ran (\d+) tests", ran.stderr)
    assert counted is not None
    assert int(counted[1]) >= 10
