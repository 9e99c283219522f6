"""What the file browser calls the paths that kernels print."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.web.paths import shown_as

MOUNTS = [
    Mount(source="/v/1", target="/home/work/data", vfolder_name="data"),
    Mount(source="/v/2", target="/home/work/models", vfolder_name="trained"),
]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/work/data/mod.py", "data/mod.py"),
        ("~/data/mod.py", "data/mod.py"),
        ("~/models/m.py", "trained/m.py"),
        ("mod.py", "trained/deep/mod.py"),
        ("./mod.py", "trained/deep/mod.py"),
        ("../../data/mod.py", "data/mod.py"),
        ("", "trained/deep"),
        ("~", None),
        ("~/trained/m.py", None),
        ("~other/data/mod.py", "trained/deep/~other/data/mod.py"),
        ("/home/work/mod.py", None),
        ("../../../../etc/passwd", None),
        ("/v/1/mod.py", None),
        ("/usr/lib/python3/json/__init__.py", None),
    ],
)
def test_a_path_of_a_kernel_is_seen_through_its_mounts(path: str, shown: str | None) -> None:
    assert shown_as(path, "/home/work/models/deep", MOUNTS) == shown
