"""What becomes of the process runtime where it has fewer rights than it would like."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.bubblewrap import python_paths
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import RuntimeFailed
from tests.integration.process_rig import Rig

ROOT = Path(__file__).parents[2]
STRANGER = 34567
CONTRACT = "tests/contract/test_runtime.py"
# Promises that take more rights than an unprivileged agent has, as its notes say.
NEED_CGROUPS = "too_much_memory"


async def test_an_unprivileged_agent_keeps_every_promise_but_the_memory_limit(
    short_tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("all tests run unprivileged already")
    os.chown(short_tmp_path, STRANGER, STRANGER)
    tests = [CONTRACT, "tests/integration/test_process_confinement.py"]
    only = ["-k", f"(process and not {NEED_CGROUPS}) or confinement"]
    pytest_words = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*as_stranger(short_tmp_path), *pytest_words, *tests, *only],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


async def test_without_a_sandbox_the_notes_say_plainly_what_is_open(plain: Rig) -> None:
    await plain.runtime.open()
    said = " ".join(plain.runtime.notes())
    assert "not confined, because bubblewrap is not installed" in said
    for word in ("files", "processes", "network", "/tmp", "read-only"):
        assert word in said
    await plain.runtime.close()


async def test_without_a_sandbox_a_kernel_uses_host_paths(plain: Rig) -> None:
    await plain.runtime.open()
    data = plain.folder("data")
    spec = plain.spec("", mounts=(Mount(source=str(data), target="/home/work/data"),))
    inside = plain.runtime.inside(spec.run_dir, spec.home_dir)
    assert (inside.run_dir, inside.home) == (str(spec.run_dir), str(spec.home_dir))
    await plain.runtime.close()


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [
        ("/home/work/data", "{data}"),
        ("/home/work/data/deep", "{data}/deep"),
        ("/home/work/database", "{home}"),
        ("/home/work", "{home}"),
        ("/elsewhere", "{home}"),
    ],
)
async def test_without_a_sandbox_a_kernel_starts_in_the_folder_itself(
    plain: Rig, workdir: str, expected: str
) -> None:
    await plain.runtime.open()
    data = plain.folder("data")
    deep = data / "deep"
    deep.mkdir(mode=0o755)
    spec = plain.spec(
        "import os; print(os.getcwd(), os.environ['HOME'])",
        mounts=(Mount(source=str(data), target="/home/work/data"),),
        workdir=workdir,
    )
    await plain.runtime.start(spec)
    await plain.ended(spec)
    cwd = expected.format(data=data, home=spec.home_dir)
    assert await plain.log(spec) == f"{cwd} {spec.home_dir}\n"
    await plain.runtime.stop(spec.kernel_id, grace_s=0)
    await plain.runtime.close()


async def test_without_a_sandbox_a_kernel_is_not_root_either(plain: Rig) -> None:
    await plain.runtime.open()
    said = await plain.output("print(open('/proc/self/status').read())")
    status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    await plain.runtime.close()


async def test_a_python_that_the_kernels_user_cannot_read_is_explained(
    plain: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have a Python that its kernels cannot read")
    await plain.runtime.open()
    closed = plain.root / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(closed / "python"))
    with pytest.raises(RuntimeFailed, match="their user cannot read the Python"):
        await plain.runtime.start(plain.spec("", argv=("python", "-c", "")))
    await plain.runtime.close()


async def test_the_one_image_is_the_python_of_the_agent(short_tmp_path: Path) -> None:
    (image,) = await ProcessRuntime(short_tmp_path).images()
    assert (image.name, image.reference, image.runtime) == ("python", sys.executable, "process")


@pytest.fixture
def plain(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig on a node without bubblewrap."""
    path = short_tmp_path / "bin"
    path.mkdir()
    (path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(path))
    return Rig(short_tmp_path, python="/usr/bin/python3")


def as_stranger(home: Path) -> list[str]:
    """Return the words that run Python as somebody who is nobody on this machine.

    The interpreter and this tree may lie in a directory that only root enters; they are
    shown to the stranger alone, at their own paths.
    """
    shown = [*python_paths(), ROOT]
    closed = {p for path in shown for p in path.parents if not p.stat().st_mode & 0o001}
    tops = [p for p in closed if not closed & set(p.parents)]
    words = ["bwrap", "--dev-bind", "/", "/"]
    for top in tops:
        words += ["--perms", "0755", "--tmpfs", str(top)]
    for path in shown:
        for top in tops:
            if path.is_relative_to(top):
                between = [p for p in reversed(path.parents) if p != top and p.is_relative_to(top)]
                words += [w for p in between for w in ("--perms", "0755", "--dir", str(p))]
                words += ["--ro-bind", str(path), str(path)]
    who = ["--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"]
    env = [f"HOME={home}", f"TMPDIR={home}", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}"]
    return [*words, "setpriv", *who, "env", "-i", *env, "PYTHONDONTWRITEBYTECODE=1", sys.executable]
