"""What an agent may expect of every container runtime: Docker and plain processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState, KernelRuntime
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image, Mount
from tests.helpers import eventually

MIB = 1024 * 1024
FOREVER = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(60)"


@dataclass
class Bench:
    """A runtime, and how to make specs for it; ``twin`` is a second one for the same agent."""

    runtime: KernelRuntime
    make_twin: Callable[[], KernelRuntime]
    image: Image
    root: Path

    def spec(self, code: str, *, memory_mib: int = 256, **changes: object) -> ContainerSpec:
        """Return a spec of a new kernel that runs ``code`` in Python."""
        kernel_id = str(uuid4())
        spec = ContainerSpec(
            kernel_id=kernel_id,
            session_id=str(uuid4()),
            generation=1,
            image=self.image,
            argv=("python", "-u", "-c", code),
            env={},
            limits=Slots({"cpu": 1, "mem": memory_mib * MIB}),
            mounts=(),
            workdir="/home/work",
            run_dir=self.folder(f"run-{kernel_id[:8]}"),
            home_dir=self.folder(f"home-{kernel_id[:8]}"),
            uid=kernel_identity(1000)[0],
            gid=kernel_identity(1000)[1],
            hostname="main1",
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    def folder(self, name: str) -> Path:
        """Return a new directory of the kernels' user."""
        path = self.root / name
        path.mkdir(mode=0o755)
        if os.geteuid() == 0:
            os.chown(path, *kernel_identity(1000))
        return path

    async def state(self, spec: ContainerSpec) -> ContainerState | None:
        listed = [s for s in await self.runtime.list() if s.kernel_id == spec.kernel_id]
        assert len(listed) <= 1
        return listed[0] if listed else None

    async def ended(self, spec: ContainerSpec) -> ContainerState:
        """Wait until the program has ended and return its state."""

        async def probe() -> ContainerState | None:
            state = await self.state(spec)
            return state if state is not None and state.exit_code is not None else None

        state = await eventually(probe, within_s=20.0)
        assert state is not None
        return state

    async def log(self, spec: ContainerSpec) -> str:
        return await self.runtime.log_tail(spec.kernel_id, max_bytes=10_000)

    async def says(self, spec: ContainerSpec, text: str) -> None:
        """Wait until the program has printed ``text``."""

        async def probe() -> bool:
            return text in await self.log(spec)

        await eventually(probe, within_s=20.0)


@pytest.fixture
def open_path(short_tmp_path: Path) -> Path:
    """A directory that kernels, who run as somebody else, can get through."""
    short_tmp_path.chmod(0o755)
    return short_tmp_path


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
async def bench(request: pytest.FixtureRequest, open_path: Path) -> AsyncIterator[Bench]:
    if request.param == "docker":
        url, agent_id = request.getfixturevalue("engine_url"), str(uuid4())

        def make() -> KernelRuntime:
            return DockerRuntime(agent_id=agent_id, cluster_id="contract", url=url)
    else:
        runtime_dir = open_path / "runtime"

        def make() -> KernelRuntime:
            return ProcessRuntime(runtime_dir)

    runtime = make()
    await runtime.open()
    image = next(i for i in await runtime.images() if i.name == "python")
    bench = Bench(runtime, make, image, open_path)
    yield bench
    for state in await bench.runtime.list():
        await bench.runtime.stop(state.kernel_id, grace_s=0)
    await bench.runtime.close()


async def test_a_started_program_runs_and_is_listed(bench: Bench) -> None:
    spec = bench.spec(FOREVER, generation=3)
    started = await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    assert started.exit_code is None
    assert await bench.runtime.list() == [started]
    assert (started.kernel_id, started.generation) == (spec.kernel_id, 3)


async def test_images_carry_the_name_of_their_runtime(bench: Bench) -> None:
    assert bench.image.runtime == bench.runtime.name


async def test_starting_a_generation_twice_gives_one_container(bench: Bench) -> None:
    """F27: making what is there is no error, however often it is tried."""
    spec = bench.spec(FOREVER)
    first = await bench.runtime.start(spec)
    again = await bench.runtime.start(spec)
    assert again == first
    assert len(await bench.runtime.list()) == 1


async def test_starting_a_generation_that_has_ended_does_not_run_it_again(bench: Bench) -> None:
    spec = bench.spec("print('once'); raise SystemExit(4)")
    await bench.runtime.start(spec)
    await bench.ended(spec)
    assert (await bench.runtime.start(spec)).exit_code == 4
    assert await bench.log(spec) == "once\n"


async def test_many_kernels_start_at_once(bench: Bench) -> None:
    specs = [bench.spec(FOREVER) for _ in range(5)]
    await asyncio.gather(*(bench.runtime.start(spec) for spec in specs))
    assert {s.kernel_id for s in await bench.runtime.list()} == {s.kernel_id for s in specs}


@pytest.mark.parametrize("code", [0, 7])
async def test_the_exit_code_of_an_ended_program_is_kept(bench: Bench, code: int) -> None:
    spec = bench.spec(f"raise SystemExit({code})")
    await bench.runtime.start(spec)
    state = await bench.ended(spec)
    assert (state.exit_code, state.oom_killed) == (code, False)


async def test_a_program_ended_by_a_signal_has_128_and_its_number(bench: Bench) -> None:
    spec = bench.spec("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await bench.runtime.start(spec)
    assert (await bench.ended(spec)).exit_code == 128 + signal.SIGSEGV


async def test_the_end_of_a_program_is_hinted(bench: Bench) -> None:
    exits = bench.runtime.exits()
    spec = bench.spec("")
    await bench.runtime.start(spec)
    async with asyncio.timeout(10):
        assert await anext(exits) == spec.kernel_id


async def test_a_signal_reaches_the_program(bench: Bench) -> None:
    spec = bench.spec(
        "import signal\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n" + FOREVER
    )
    await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    await bench.runtime.signal(spec.kernel_id, signal.SIGINT)
    await bench.says(spec, "interrupted")
    state = await bench.state(spec)
    assert state is not None
    assert state.exit_code is None


async def test_an_interrupt_reaches_what_the_program_has_started(bench: Bench) -> None:
    spec = bench.spec(
        "import signal, subprocess\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "child = subprocess.Popen(['sleep', '600'], restore_signals=True)\n"
        "print('ready', flush=True)\n"
        "print('child ended with', child.wait(), flush=True)\n"
    )
    await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    await bench.runtime.signal(spec.kernel_id, signal.SIGINT)
    await bench.says(spec, "child ended with -2")


async def test_what_is_gone_can_be_signalled_and_stopped(bench: Bench) -> None:
    spec = bench.spec("")
    await bench.runtime.start(spec)
    await bench.ended(spec)
    await bench.runtime.signal(spec.kernel_id, signal.SIGINT)
    for _ in range(2):
        await bench.runtime.stop(spec.kernel_id, grace_s=1)
    await bench.runtime.signal(spec.kernel_id, signal.SIGINT)
    assert await bench.runtime.list() == []
    assert await bench.log(spec) == ""


async def test_stop_lets_the_program_finish_what_it_does(bench: Bench) -> None:
    spec = bench.spec(
        "import signal, pathlib, sys\n"
        "def end(*_): pathlib.Path('farewell').write_text('saved'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n" + FOREVER
    )
    await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    await bench.runtime.stop(spec.kernel_id, grace_s=10)
    assert (spec.home_dir / "farewell").read_text() == "saved"
    assert await bench.runtime.list() == []


async def test_stop_kills_a_program_that_ignores_it(bench: Bench) -> None:
    ignore = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    spec = bench.spec(ignore + FOREVER)
    await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    async with asyncio.timeout(10):
        await bench.runtime.stop(spec.kernel_id, grace_s=1)
    assert await bench.runtime.list() == []


async def test_a_new_generation_replaces_the_old_one_and_keeps_its_home(bench: Bench) -> None:
    spec = bench.spec("open('kept', 'w').write('by 1')\n" + FOREVER)
    first = await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    argv = ("python", "-u", "-c", "print(open('kept').read())\n" + FOREVER)
    second = await bench.runtime.start(replace(spec, generation=2, argv=argv))
    await bench.says(spec, "by 1")
    assert second.container_id != first.container_id
    assert await bench.runtime.list() == [second]


async def test_a_new_generation_follows_one_that_has_ended(bench: Bench) -> None:
    spec = bench.spec("raise SystemExit(1)")
    await bench.runtime.start(spec)
    await bench.ended(spec)
    argv = ("python", "-u", "-c", FOREVER)
    await bench.runtime.start(replace(spec, generation=2, argv=argv))
    await bench.says(spec, "ready")
    state = await bench.state(spec)
    assert state is not None
    assert (state.generation, state.exit_code) == (2, None)


async def test_mounts_show_folders_and_keep_read_only_ones_unchanged(bench: Bench) -> None:
    shared, data = bench.folder("some: shared"), bench.folder("data")
    (shared / "in.txt").write_text("hello")
    spec = bench.spec(
        "from pathlib import Path\n"
        "Path('data/out.txt').write_text(Path('shared/in.txt').read_text() + ' there')\n"
        "try: Path('shared/in.txt').write_text('spoilt')\n"
        "except OSError as error: print(error.strerror)\n",
        mounts=(
            Mount(source=str(shared), target="/home/work/shared", readonly=True),
            Mount(source=str(data), target="/home/work/data"),
        ),
    )
    for name in ("shared", "data"):  # as the agent does
        (spec.home_dir / name).mkdir()
    await bench.runtime.start(spec)
    await bench.says(spec, "Read-only file system")
    assert (data / "out.txt").read_text() == "hello there"
    assert (shared / "in.txt").read_text() == "hello"


async def test_a_program_starts_in_its_workdir(bench: Bench) -> None:
    data = bench.folder("data")
    (data / "deep").mkdir()
    spec = bench.spec(
        "import os; print(os.getcwd())",
        mounts=(Mount(source=str(data), target="/home/work/data"),),
        workdir="/home/work/data/deep",
    )
    (spec.home_dir / "data").mkdir()
    await bench.runtime.start(spec)
    home = bench.runtime.inside(spec.run_dir, spec.home_dir).home
    await bench.says(spec, f"{home}/data/deep\n")


async def test_a_program_whose_workdir_is_gone_starts_at_home_and_makes_nothing(
    bench: Bench,
) -> None:
    data = bench.folder("data")
    spec = bench.spec(
        "import os; print(os.getcwd())",
        mounts=(Mount(source=str(data), target="/home/work/data"),),
        workdir="/home/work/data/gone/deep",
    )
    (spec.home_dir / "data").mkdir()
    await bench.runtime.start(spec)
    await bench.says(spec, f"{bench.runtime.inside(spec.run_dir, spec.home_dir).home}\n")
    assert list(data.iterdir()) == []


async def test_a_program_sees_its_own_environment_and_nothing_of_the_agents(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "s3cret")
    spec = bench.spec(
        "import os, json; print(json.dumps(dict(os.environ)))", env={"GIVEN": "a=b c"}
    )
    await bench.runtime.start(spec)
    await bench.ended(spec)
    seen: Mapping[str, str] = json.loads(await bench.log(spec))
    assert seen["GIVEN"] == "a=b c"
    assert seen["HOME"] == bench.runtime.inside(spec.run_dir, spec.home_dir).home
    assert seen["USER"] == seen["LOGNAME"] != ""
    assert "SECRET_OF_THE_AGENT" not in seen


async def test_run_dir_and_home_are_where_inside_says_and_writable(bench: Bench) -> None:
    spec = bench.spec("")
    inside = bench.runtime.inside(spec.run_dir, spec.home_dir)
    code = (
        "from pathlib import Path\n"
        f"Path({inside.run_dir!r}, 'socket').write_text('1')\n"
        f"Path({inside.home!r}, 'note').write_text('2')\n"
    )
    await bench.runtime.start(replace(spec, argv=("python", "-c", code)))
    assert (await bench.ended(spec)).exit_code == 0
    assert (spec.run_dir / "socket").read_text() + (spec.home_dir / "note").read_text() == "12"


async def test_a_program_that_takes_too_much_memory_is_reported_as_such(bench: Bench) -> None:
    spec = bench.spec("hoard = [bytearray(8 << 20) for _ in range(100)]", memory_mib=64)
    await bench.runtime.start(spec)
    state = await bench.ended(spec)
    assert (state.exit_code, state.oom_killed) == (137, True)


async def test_the_log_tail_is_the_end_of_both_streams(bench: Bench) -> None:
    spec = bench.spec("import sys\nprint('x' * 5000)\nprint('last', file=sys.stderr)")
    await bench.runtime.start(spec)
    await bench.ended(spec)
    everything = await bench.runtime.log_tail(spec.kernel_id, max_bytes=10_000)
    # Two pipes: which of the lines comes first is not decided by the program.
    assert sorted(everything.splitlines()) == ["last", "x" * 5000]
    assert await bench.runtime.log_tail(spec.kernel_id, max_bytes=10) == everything[-10:]


async def test_all_that_runs_of_a_kernel_comes_from_its_origin(bench: Bench) -> None:
    spec = bench.spec(FOREVER)
    assert await bench.runtime.origin(spec.kernel_id) is None
    await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    origin = await bench.runtime.origin(spec.kernel_id)
    assert origin is not None
    root = origin.first if origin.reaper is None else origin.reaper
    below = [process.pid for process in psutil.Process(root).children(recursive=True)]
    assert origin.reaper is None or origin.first in below
    assert any("while True" in " ".join(psutil.Process(pid).cmdline()) for pid in below)
    await bench.runtime.stop(spec.kernel_id, grace_s=0)
    assert await bench.runtime.origin(spec.kernel_id) is None


async def test_kernels_outlive_the_runtime_object_and_are_found_again(bench: Bench) -> None:
    spec = bench.spec(FOREVER)
    started = await bench.runtime.start(spec)
    await bench.says(spec, "ready")
    await bench.runtime.close()
    bench.runtime = bench.make_twin()
    await bench.runtime.open()
    assert await bench.runtime.list() == [started]
    assert await bench.log(spec) == "ready\n"
    await bench.runtime.stop(spec.kernel_id, grace_s=0)
    assert await bench.runtime.list() == []
