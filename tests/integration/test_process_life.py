"""Kernel processes from start to end, whatever happens to their agent."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from backendai_jupyter.domain.resources import Slots
from tests.helpers import eventually
from tests.integration.process_rig import DAEMON, FOREVER, MIB, Rig, cgroups_of, command_lines

ROOT = Path(__file__).parents[2]
FLOOD = "import os\nfor _ in range(800): os.write(1, b'x' * 65535 + b'\\n')\n"  # 50 MiB
AGENT = """\
import asyncio, os, pickle, sys
from pathlib import Path
from backendai_jupyter.agent.runtime.process import ProcessRuntime

async def main():
    runtime = ProcessRuntime(Path(sys.argv[1]))
    await runtime.open()
    await runtime.start(pickle.load(sys.stdin.buffer))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.fixture(params=["sandboxed", "plain"])
async def rig(
    request: pytest.FixtureRequest, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    rig = Rig(short_tmp_path)
    if request.param == "plain":
        rig.python = "/usr/bin/python3"  # ours may lie where the kernels' user cannot read it
        monkeypatch.setenv("PATH", str(path_without_bubblewrap(short_tmp_path)))
    await rig.runtime.open()
    unconfined = any("not confined" in note for note in rig.runtime.notes())
    assert unconfined == (request.param == "plain")
    yield rig
    for state in await rig.runtime.list():
        await rig.runtime.stop(state.kernel_id, grace_s=0)
    await rig.runtime.close()


def path_without_bubblewrap(root: Path) -> Path:
    path = root / "bin"
    path.mkdir()
    (path / "setpriv").symlink_to("/usr/bin/setpriv")
    return path


async def test_a_killed_program_is_reported_with_its_signal(rig: Rig) -> None:
    spec = rig.spec(FOREVER)
    await rig.runtime.start(spec)
    await rig.says(spec, "ready")
    await rig.runtime.signal(spec.kernel_id, signal.SIGKILL)
    state = await rig.ended(spec)
    assert (state.exit_code, state.oom_killed) == (128 + 9, False)


async def test_a_program_that_kills_itself_is_reported_with_its_signal(rig: Rig) -> None:
    spec = rig.spec("import os; os.kill(os.getpid(), 11)")
    await rig.runtime.start(spec)
    assert (await rig.ended(spec)).exit_code == 128 + 11


async def test_nothing_of_a_program_is_left_after_stop(rig: Rig) -> None:
    seconds = f"1000.{os.getpid()}"
    spec = rig.spec(DAEMON.format(seconds=seconds) + FOREVER)
    state = await rig.runtime.start(spec)
    await rig.says(spec, "daemon")
    await rig.says(spec, "ready")
    await eventually(lambda: sleeps(seconds))
    await rig.runtime.stop(spec.kernel_id, grace_s=1)
    assert not sleeps(seconds)
    assert not [line for line in command_lines() if str(rig.root) in line]
    assert list(rig.runtime_dir.iterdir()) == []
    assert cgroups_of(state.container_id) == []


async def test_what_a_program_leaves_behind_ends_with_it(rig: Rig) -> None:
    seconds = f"2000.{os.getpid()}"
    spec = rig.spec(DAEMON.format(seconds=seconds) + "raise SystemExit(3)")
    await rig.runtime.start(spec)
    assert (await rig.ended(spec)).exit_code == 3
    await eventually(lambda: not sleeps(seconds))


async def test_a_program_dies_with_its_keeper(rig: Rig) -> None:
    spec = rig.spec(f"mark = {str(rig.root)!r}\n" + FOREVER)
    await rig.runtime.start(spec)
    await rig.says(spec, "ready")
    pid = int((rig.runtime_dir / spec.kernel_id / "keeper").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    assert (await rig.ended(spec)).exit_code == 128 + 9
    await eventually(lambda: not [line for line in command_lines() if str(rig.root) in line])


async def test_a_kernel_survives_an_agent_that_is_killed(rig: Rig) -> None:
    spec = rig.spec(FOREVER)
    agent = await asyncio.to_thread(run_agent, rig.runtime_dir, spec)
    assert agent.returncode == -signal.SIGKILL, agent.stderr
    await rig.restart_agent()
    assert (await rig.state(spec)).exit_code is None
    await rig.says(spec, "ready")
    await rig.runtime.signal(spec.kernel_id, signal.SIGINT)
    await rig.says(spec, "KeyboardInterrupt")
    assert (await rig.ended(spec)).exit_code == 128 + signal.SIGINT


async def test_the_exit_code_is_known_when_the_program_ends_without_an_agent(rig: Rig) -> None:
    wait_for_go = "import os, sys\nprint('ready', flush=True)\nopen('go').read()\nsys.exit(5)"
    spec = rig.spec(wait_for_go)
    go = spec.home_dir / "go"
    os.mkfifo(go)
    os.chown(go, spec.uid, spec.gid)
    await rig.runtime.start(spec)
    await rig.says(spec, "ready")
    await rig.runtime.close()
    await asyncio.to_thread(go.write_text, "now")
    await eventually(lambda: (rig.runtime_dir / spec.kernel_id / "exit").exists())
    await rig.restart_agent()
    assert (await rig.state(spec)).exit_code == 5


async def test_the_end_of_an_adopted_kernel_is_hinted(rig: Rig) -> None:
    spec = rig.spec(FOREVER)
    await rig.runtime.start(spec)
    await rig.restart_agent()
    await rig.runtime.signal(spec.kernel_id, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await anext(rig.runtime.exits()) == spec.kernel_id


async def test_a_flood_is_kept_to_a_megabyte_and_its_end_is_not_lost(rig: Rig) -> None:
    spec = rig.spec(FLOOD + "os.write(1, b'the last line\\n')")
    await rig.runtime.start(spec)
    await rig.ended(spec)
    logs = list((rig.runtime_dir / spec.kernel_id).glob("log*"))
    assert sum(log.stat().st_size for log in logs) < 1.2 * MIB
    assert (await rig.log(spec)).endswith("x\nthe last line\n")


async def test_a_flood_goes_on_without_an_agent(rig: Rig) -> None:
    spec = rig.spec(FLOOD + "open('done', 'w').close()\n" + FOREVER)
    await rig.runtime.start(spec)
    await rig.runtime.close()
    await eventually((spec.home_dir / "done").exists)
    await rig.restart_agent()
    await rig.says(spec, "ready")


async def test_a_cancelled_start_leaves_nothing(rig: Rig) -> None:
    spec = rig.spec(FOREVER)
    start = asyncio.create_task(rig.runtime.start(spec))
    await eventually((rig.runtime_dir / spec.kernel_id).exists)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await rig.runtime.list() == []
    assert list(rig.runtime_dir.iterdir()) == []
    await eventually(lambda: not [line for line in command_lines() if str(rig.root) in line])


async def test_a_directory_whose_kernel_was_never_started_is_removed(rig: Rig) -> None:
    (rig.runtime_dir / str(uuid4())).mkdir()
    await rig.restart_agent()
    assert list(rig.runtime_dir.iterdir()) == []


async def test_limits_are_those_of_the_kernels_cgroup(rig: Rig) -> None:
    spec = rig.spec(FOREVER, limits=Slots.parse({"cpu": "0.5", "mem": "128m"}))
    state = await rig.runtime.start(spec)
    found = {
        file.name: file.read_text().split()
        for leaf in cgroups_of(state.container_id)
        for file in leaf.glob("*.*")
        if file.name in {"memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us"}
    }
    if not found:
        assert any("Memory is limited for each process" in note for note in rig.runtime.notes())
        return
    assert [words[0] for _, words in sorted(found.items())] == ["50000", str(128 * MIB)]


async def test_a_kernel_out_of_memory_is_reported_as_such_after_a_restart_too(rig: Rig) -> None:
    spec = rig.spec("hoard = [bytearray(8 << 20) for _ in range(100)]")
    await rig.runtime.start(spec)
    before = await rig.ended(spec)
    await rig.restart_agent()
    assert await rig.state(spec) == before
    memory_is_enforced = not any("Memory" in note for note in rig.runtime.notes())
    assert (before.oom_killed, before.exit_code) == (
        (True, 137) if memory_is_enforced else (False, 1)
    )


def sleeps(seconds: str) -> list[str]:
    return [line for line in command_lines() if line.startswith(f"sleep {seconds}")]


def run_agent(runtime_dir: Path, spec: object) -> subprocess.CompletedProcess[bytes]:
    """Start a kernel from an agent that is killed as soon as it has."""
    return subprocess.run(
        [sys.executable, "-c", AGENT, str(runtime_dir)],
        input=pickle.dumps(spec),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
