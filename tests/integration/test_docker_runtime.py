"""The Docker runtime and the engine's own ways: labels, errors, events, half-made containers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.docker_config import container_config, container_name
from backendai_jupyter.agent.runtime.docker_engine import find_engine
from backendai_jupyter.agent.runtime.docker_events import RETRY_DELAY_S
from backendai_jupyter.domain.wire import Image, Mount
from backendai_jupyter.errors import RuntimeFailed
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.integration.docker_rig import DockerRig, new_rig


class EngineThatHangsUp:
    """Passes all on to an engine; ``hang_up`` breaks every connection and refuses new ones."""

    def __init__(self, path: Path, engine_url: str) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._target = engine_url.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    @property
    def is_in_use(self) -> bool:
        return bool(self._open)

    async def hang_up(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        there, here = await asyncio.open_unix_connection(self._target)
        self._open |= {writer, here}
        try:
            await asyncio.gather(_copy(reader, here), _copy(there, writer))
        finally:
            self._open -= {writer, here}
            self._serving.discard(task)
            for end in (writer, here):
                end.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()


@pytest.fixture
async def unreliable(
    engine: PrivateEngine, short_tmp_path: Path
) -> AsyncIterator[EngineThatHangsUp]:
    between = EngineThatHangsUp(short_tmp_path / "proxy.sock", engine.url)
    await between.listen()
    yield between
    await between.hang_up()


async def test_an_exit_while_the_connection_was_broken_is_hinted_later(
    engine: PrivateEngine, unreliable: EngineThatHangsUp, short_tmp_path: Path
) -> None:
    """F23: events that were missed while the engine was away are made up for."""
    async with new_rig(engine, short_tmp_path, url=unreliable.url) as rig:
        exits = rig.runtime.exits()
        early, late = rig.spec(""), rig.spec("input()")
        state = await rig.runtime.start(replace(late, argv=("python", "-c", rig.WAIT)))
        await rig.runtime.start(early)
        async with asyncio.timeout(10):
            assert await anext(exits) == early.kernel_id  # the events are flowing
        await unreliable.hang_up()
        with contextlib.closing(engine.client()) as client:
            client.kill(state.container_id)
            client.wait(state.container_id)
        await unreliable.listen()
        async with asyncio.timeout(10):
            while await anext(exits) != late.kernel_id:  # the early one may come twice
                pass


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK's, when refused
async def test_calls_fail_with_a_sentence_while_the_engine_is_away_and_work_after(
    engine: PrivateEngine, unreliable: EngineThatHangsUp, short_tmp_path: Path
) -> None:
    async with new_rig(engine, short_tmp_path, url=unreliable.url) as rig:
        await unreliable.hang_up()
        with pytest.raises(RuntimeFailed, match=r"Engine at unix://.*proxy.sock cannot be reached"):
            await rig.runtime.list()
        await unreliable.listen()
        assert await rig.runtime.list() == []
    gc.collect()


async def test_an_engine_that_stays_away_is_told_of_once(
    engine: PrivateEngine,
    unreliable: EngineThatHangsUp,
    short_tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with new_rig(engine, short_tmp_path, url=unreliable.url) as rig:
        exits, first, second = rig.runtime.exits(), rig.spec(""), rig.spec("")
        await rig.runtime.start(first)
        async with asyncio.timeout(10):
            assert await anext(exits) == first.kernel_id  # the events are flowing
        for _ in range(2):
            caplog.clear()
            await unreliable.hang_up()
            until = time.monotonic() + 4 * RETRY_DELAY_S
            await eventually(lambda until=until: time.monotonic() > until)  # type: ignore[misc]
            told = [line for line in caplog.messages if "events are interrupted" in line]
            assert len(told) == len(set(told)) > 0
            await unreliable.listen()
            await eventually(lambda: unreliable.is_in_use)
        await rig.runtime.start(second)
        async with asyncio.timeout(10):
            while await anext(exits) != second.kernel_id:
                """The first may come twice."""


async def test_an_engine_that_is_not_there_is_named_with_its_socket(short_tmp_path: Path) -> None:
    url = f"unix://{short_tmp_path}/none.sock"
    runtime = DockerRuntime(agent_id="a", cluster_id="c", url=url)
    with pytest.raises(RuntimeFailed, match=f"{url} cannot be reached .No such file or directory"):
        await runtime.open()
    with pytest.raises(RuntimeFailed, match="not open"):
        await runtime.list()
    await runtime.close()


async def test_an_engine_is_found_where_it_is_and_only_there(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    assert await find_engine(engine.url)
    assert not await find_engine(f"unix://{short_tmp_path}/none.sock")


async def test_an_engine_that_never_answers_is_given_up_after_two_seconds(
    short_tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short_tmp_path / "silent.sock"))
        silent.listen()
        async with asyncio.timeout(20):
            assert not await find_engine(f"unix://{short_tmp_path}/silent.sock")


async def test_a_missing_image_is_refused_with_how_to_build_it(rig: DockerRig) -> None:
    image = Image(name="julia", reference="backendai-julia:latest", runtime="docker")
    with pytest.raises(RuntimeFailed, match="jupyter backendai image build julia"):
        await rig.runtime.start(rig.spec("", image=image))
    assert await rig.runtime.list() == []


async def test_a_missing_folder_is_refused_and_not_made(rig: DockerRig) -> None:
    gone = Mount(source=str(rig.root / "gone"), target="/home/work/gone")
    with pytest.raises(RuntimeFailed, match="bind source path does not exist"):
        await rig.runtime.start(rig.spec("", mounts=(gone,)))
    assert not (rig.root / "gone").exists()


async def test_a_refused_start_leaves_nothing_behind(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    async with new_rig(engine, short_tmp_path, network="no-such-network") as rig:
        spec = rig.spec("")
        with pytest.raises(RuntimeFailed, match="network no-such-network not found"):
            await rig.runtime.start(spec)
        assert container_name(spec) not in rig.container_names()


async def test_a_program_that_the_image_lacks_ends_and_its_log_says_so(rig: DockerRig) -> None:
    spec = rig.spec("", argv=("no-such-program", "-x"))
    await rig.runtime.start(spec)
    assert "no-such-program failed: No such file or directory" in await rig.output(spec)
    assert (await rig.ended(spec)).exit_code == 127


async def test_an_agent_sees_only_its_own_containers_of_its_own_cluster(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    mine = {"agent_id": "one", "cluster_id": "c1"}
    async with contextlib.AsyncExitStack() as stack:
        rigs = [
            await stack.enter_async_context(new_rig(engine, short_tmp_path, **{**mine, **other}))
            for other in ({}, {"agent_id": "two"}, {"cluster_id": "c2"})
        ]
        spec = rigs[0].spec(DockerRig.WAIT)
        started = await rigs[0].runtime.start(spec)
        for stranger in rigs[1:]:
            assert await stranger.runtime.list() == []
            await stranger.runtime.stop(spec.kernel_id, grace_s=0)
        assert await rigs[0].runtime.list() == [started]


async def test_a_container_says_whose_it_is(engine: PrivateEngine, short_tmp_path: Path) -> None:
    async with new_rig(engine, short_tmp_path, agent_id="one", cluster_id="c1") as rig:
        spec = rig.spec(DockerRig.WAIT, generation=4)
        seen = rig.inspect((await rig.runtime.start(spec)).container_id)
    assert seen["Name"] == f"/backendai-{spec.kernel_id}-4"
    own = {k: v for k, v in seen["Config"]["Labels"].items() if k.endswith(("-id", "generation"))}
    assert own == {
        "ai.backend.kernel-id": spec.kernel_id,
        "ai.backend.session-id": spec.session_id,
        "ai.backend.agent-id": "one",
        "ai.backend.cluster-id": "c1",
        "ai.backend.generation": "4",
    }


async def test_a_generation_that_is_out_of_date_is_refused(rig: DockerRig) -> None:
    spec = rig.spec(DockerRig.WAIT, generation=2)
    current = await rig.runtime.start(spec)
    with pytest.raises(RuntimeFailed, match="out of date"):
        await rig.runtime.start(replace(spec, generation=1))
    assert await rig.runtime.list() == [current]


async def test_a_container_that_an_agent_made_and_did_not_start_is_started(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    identity = {"agent_id": "died", "cluster_id": "c1"}
    async with new_rig(engine, short_tmp_path, **identity) as rig:
        spec = rig.spec("print('started after all')")
        config = container_config(spec, **identity, network="bridge", pids_limit=64, with_init=True)
        with contextlib.closing(engine.client()) as client:
            made = client.create_container_from_config(config, container_name(spec))
        assert [state.exit_code for state in await rig.runtime.list()] == [None]
        assert (await rig.runtime.start(spec)).container_id == made["Id"]
        assert await rig.output(spec) == "started after all\n"


async def test_a_killed_child_does_not_make_the_kernel_out_of_memory(rig: DockerRig) -> None:
    hoard = "hoard = [bytearray(8 << 20) for _ in range(100)]"
    spec = rig.spec(
        f"import subprocess, sys\nprint(subprocess.call([sys.executable, '-c', {hoard!r}]))",
        memory_mib=64,
    )
    await rig.runtime.start(spec)
    assert await rig.output(spec) == "-9\n"
    state = await rig.ended(spec)
    assert (state.exit_code, state.oom_killed) == (0, False)


async def test_the_log_of_a_kernel_that_floods_its_terminal_stays_small(rig: DockerRig) -> None:
    spec = rig.spec("for i in range(60_000): print(i, 'x' * 100)")
    await rig.runtime.start(spec)
    await rig.ended(spec)
    log = await rig.runtime.log_tail(spec.kernel_id, max_bytes=50_000_000)
    assert "59999 x" in log
    assert len(log) < 2_000_000


async def test_nothing_of_the_runtime_is_left_after_close(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    async with new_rig(engine, short_tmp_path) as rig:
        await asyncio.gather(*(rig.runtime.list() for _ in range(8)))
        assert {"docker-events", "docker_0"} <= {thread.name for thread in threading.enumerate()}
    assert not any(thread.name.startswith("docker") for thread in threading.enumerate())
