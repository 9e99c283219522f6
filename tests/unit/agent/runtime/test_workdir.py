"""Whether a kernel's working directory is there, as far as the host can tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.agent.runtime.workdir import is_missing
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image, Mount


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a directory, a file, and links to one that is and one that is not here."""
    folder = tmp_path / "folder"
    (folder / "dir" / "deep").mkdir(parents=True)
    (folder / "file").write_text("")
    (folder / "out").symlink_to("/")
    (folder / "inside").symlink_to("/home/work/other")
    return folder


@pytest.mark.parametrize(
    ("workdir", "missing"),
    [
        ("/home/work", False),
        ("/home/work/data", False),
        ("/home/work/data/dir/deep", False),
        ("/home/work/data/gone", True),
        ("/home/work/data/dir/gone/deep", True),
        ("/home/work/data/file", True),
        ("/home/work/data/file/deep", True),
        ("/home/work/data/out/gone", False),
        ("/home/work/data/inside", False),
        ("/home/work/gone", True),
        ("/elsewhere", False),
    ],
)
def test_what_is_certainly_not_there_is_missing(
    tmp_path: Path, folder: Path, workdir: str, missing: bool
) -> None:
    spec = ContainerSpec(
        kernel_id="k",
        session_id="s",
        generation=1,
        image=Image(name="python", reference="python", runtime="docker"),
        argv=("python",),
        env={},
        limits=Slots(),
        mounts=(Mount(source=str(folder), target="/home/work/data"),),
        workdir=workdir,
        run_dir=tmp_path,
        home_dir=tmp_path,
        uid=1,
        gid=1,
        hostname="h",
    )
    assert is_missing(spec) is missing
