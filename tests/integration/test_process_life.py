"""Kernel processes from start to end, whatever happens to their agent."""

from __future__ import annotations

import asyncio
import os
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
