"""Real kernels compute, fill memory and write files, and are measured at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.agent.statistics.cgroup_files import UNIFIED, Group, hierarchies_of
from backendai_jupyter.agent.statistics.statistics import Statistics
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryLiveStore
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.statistics import AgentStatistics, KernelStatistics
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.integration.docker_rig import DockerRig, new_rig
from tests.integration.process_rig import Rig

MIB = 1 << 20
LIMITS = Slots({"cpu": 1, "mem": 512 * MIB})
REST = "import time\nwhile True: time.sleep(60)\n"
BURN = f"""
import time
while time.process_time() < 2: pass
print('burnt', flush=True)
{REST}"""
BURN_A_BIT = """
import time
while time.process_time() < 0.5: pass
print("burnt", flush=True)
time.sleep(60)
"""
BURN_ON = "print('burns', flush=True)\nwhile True: pass\n"
# The work is done by processes that have ended when it is measured.
BURN_IN_CHILDREN = f"""
import subprocess, sys
code = 'import time\\nwhile time.process_time() < 1: pass'
for _ in range(2): subprocess.run([sys.executable, '-I', '-S', '-c', code], check=True)
print('burnt', flush=True)
{REST}"""
HOLD = f"""
import signal
held = b'x' * (200 << 20)
def free(*_):
    global held
    held = b''
    print('freed', flush=True)
signal.signal(signal.SIGUSR1, free)
print('held', flush=True)
{REST}"""
WRITE = f"""
import os
with open('large', 'wb') as file:
    file.write(os.urandom(20 << 20))
    os.fsync(file.fileno())
print('written', flush=True)
{REST}"""


@dataclass
class Measured:
    """A runtime and the statistics of its kernels; ``kind`` is how well it can count."""

    kind: str
    rig: Rig | DockerRig
    statistics: Statistics
    live: MemoryLiveStore

    async def step(self) -> AgentStatistics:
        await self.statistics.step()
        text = await self.live.get(keys.statistics("a"))
        assert text is not None
        return AgentStatistics.model_validate_json(text)

    async def start(self, code: str, *, says: str) -> ContainerSpec:
        spec = self.rig.spec(code, limits=LIMITS)
        await self.rig.runtime.start(spec)

        async def has_said() -> bool:
            log = await self.rig.runtime.log_tail(spec.kernel_id, max_bytes=10_000)
            return says in log

        await eventually(has_said, within_s=60)
        return spec

    async def processes(self, spec: ContainerSpec) -> list[psutil.Process]:
        origin = await self.rig.runtime.origin(spec.kernel_id)
        assert origin is not None
        return list(psutil.Process(origin.reaper or origin.first).children(recursive=True))

    async def of(self, spec: ContainerSpec) -> KernelStatistics:
        return (await self.step()).kernels[spec.kernel_id]


def burnt_by(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time that they have used, as another reader of it says."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


@asynccontextmanager
async def process_rig(root: Path, cgroup_parent: str) -> AsyncIterator[Rig]:
    rig = Rig(root)
    rig.runtime = ProcessRuntime(rig.runtime_dir, cgroup_parent=cgroup_parent)
    await rig.runtime.open()
    try:
        yield rig
        for state in await rig.runtime.list():
            await rig.runtime.stop(state.kernel_id, grace_s=0)
    finally:
        await rig.runtime.close()


KINDS: Sequence[object] = (
    "sandbox",
    "sandbox without cgroups",
    "plain without cgroups",
    pytest.param("docker", marks=pytest.mark.docker),
)


@pytest.fixture
def open_path(short_tmp_path: Path) -> Path:
    """A directory that kernels, who run as somebody else, can get through."""
    short_tmp_path.chmod(0o755)
    return short_tmp_path


@pytest.fixture
def poor_path(open_path: Path) -> str:
    """A search path on which there is no bubblewrap."""
    (open_path / "bin").mkdir()
    (open_path / "bin/setpriv").symlink_to("/usr/bin/setpriv")
    return str(open_path / "bin")


@pytest.fixture(params=KINDS)
async def measured(
    request: pytest.FixtureRequest,
    open_path: Path,
    poor_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Measured]:
    kind, live = str(request.param), MemoryLiveStore()
    if kind == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        opening = new_rig(engine, open_path)
    else:
        if kind.startswith("plain"):
            monkeypatch.setenv("PATH", poor_path)
        parent = "there-is-none/below-it" if kind.endswith("without cgroups") else "backendai"
        opening = process_rig(open_path, parent)  # type: ignore[assignment]
    async with opening as rig:
        if kind.startswith("plain") and isinstance(rig, Rig):
            rig.python = "/usr/bin/python3"
        statistics = Statistics(
            "a",
            runtimes={rig.runtime.name: rig.runtime},
            node=Node(open_path / "run", open_path, os.getuid(), os.getgid()),
            settings=BackendAIAgent(),
            live=live,
        )
        yield Measured(kind, rig, statistics, live)


async def test_a_kernel_that_burns_a_core_is_seen_to(measured: Measured) -> None:
    """That it gets less of one, where other programs want it too, is seen as well."""
    spec = await measured.start(BURN_ON, says="burns")
    processes = await measured.processes(spec)
    first, began_s = await measured.of(spec), burnt_by(processes)
    assert first.cpu_cores is None
    await eventually(lambda: burnt_by(processes) > began_s + 1.5, within_s=60)
    found, burnt_s = await measured.of(spec), burnt_by(processes) - began_s
    assert found.cpu_cores == pytest.approx(burnt_s / (found.at - first.at), rel=0.15)
    assert 0 < (found.cpu_cores or 0) < 1.2


@pytest.mark.parametrize("code", [BURN, BURN_IN_CHILDREN], ids=["itself", "its children"])
async def test_processor_time_is_what_was_used(measured: Measured, code: str) -> None:
    spec = await measured.start(code, says="burnt")
    used_s = (await measured.of(spec)).cpu_used_s
    assert used_s is not None
    assert 1.9 < used_s < 3  # with what it takes to start Python

    async def is_idle() -> bool:
        return (await measured.of(spec)).cpu_cores == pytest.approx(0, abs=0.1)

    await eventually(is_idle)


async def test_memory_is_seen_while_it_is_held_and_its_peak_stays(measured: Measured) -> None:
    spec = await measured.start(HOLD, says="held")
    held = await measured.of(spec)
    assert 200 * MIB < (held.memory_used_bytes or 0) < 280 * MIB
    expected = None if "without" in measured.kind else 512 * MIB
    assert held.memory_limit_bytes == expected
    await measured.rig.runtime.signal(spec.kernel_id, signal.SIGUSR1)
    await measured.rig.says(spec, "freed")
    freed = await measured.of(spec)
    assert (freed.memory_used_bytes or 0) < 80 * MIB
    assert (freed.memory_peak_bytes or 0) > 200 * MIB


async def test_a_peak_between_two_measurements_is_seen(measured: Measured) -> None:
    """By what Linux keeps: nobody looked while the memory was held."""
    spec = await measured.start(HOLD, says="held")
    await measured.rig.runtime.signal(spec.kernel_id, signal.SIGUSR1)
    await measured.rig.says(spec, "freed")
    found = await measured.of(spec)
    assert (found.memory_used_bytes or 0) < 80 * MIB
    assert (found.memory_peak_bytes or 0) > 200 * MIB


async def test_what_is_written_is_counted(measured: Measured) -> None:
    spec = await measured.start(WRITE, says="written")
    found = await measured.of(spec)
    assert (found.io_write_bytes or 0) >= 20 * MIB
    assert (found.processes or 0) >= 1


async def test_a_network_is_measured_where_it_is_the_kernels_own(measured: Measured) -> None:
    spec = await measured.start(f"print('ready', flush=True)\n{REST}", says="ready")
    found = await measured.of(spec)
    has_own = measured.kind == "docker"
    assert (found.network_received_bytes is not None, found.network_sent_bytes is not None) == (
        has_own,
        has_own,
    )


async def test_a_kernel_that_has_ended_is_measured_no_more(measured: Measured) -> None:
    spec = await measured.start(f"print('ready', flush=True)\n{REST}", says="ready")
    await measured.of(spec)
    await measured.rig.runtime.signal(spec.kernel_id, signal.SIGKILL)

    async def is_gone() -> bool:
        found = await measured.step()
        return not found.kernels and found.node.kernels_running == 0

    await eventually(is_gone)


def test_a_group_of_version_2_counts_its_processes() -> None:
    """No runtime makes one where version 1 has the controllers, but Linux counts in both."""
    point = hierarchies_of(Path("/proc/self/mountinfo").read_text())[UNIFIED].point
    name = f"backendai-test-{uuid4().hex}"
    enter = (
        f"echo $$ > {point}/{name}/cgroup.procs && exec {sys.executable} -I -S -c '{BURN_A_BIT}'"
    )
    try:
        (point / name).mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    program = subprocess.Popen(["/bin/sh", "-c", enter], stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"burnt\n"
        memberships = Path(f"/proc/{program.pid}/cgroup").read_text()
        group = Group.of(memberships, Path("/proc/self/mountinfo").read_text(), name)
        used_s = group.cpu_used_s()
        assert group.pids() == [program.pid]
        assert used_s is not None
        assert 0.4 < used_s < 1  # it began outside
    finally:
        program.kill()
        program.communicate()
        (point / name).rmdir()
