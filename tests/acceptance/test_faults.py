"""Faults of the machine: said clearly, nothing acknowledged is lost, over when they are over."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import sqlite3
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.channels import OURS, Channels, started
from tests.helpers import eventually
from tests.server import RunningServer
from tests.small_disk import NEEDS_ROOT, SmallDisk

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
ONE = {"resources": {"cpu": 1, "mem": "256m"}}


def data_of(server: RunningServer) -> Path:
    return server.root / "data" / "backendai"


async def start(server: RunningServer) -> httpx.Response:
    return await server.post("api/kernels", json={"name": OURS, "backendai": ONE})


async def runs(server: RunningServer, kernel_id: str, code: str = "print(x)") -> str:
    """Return what the code prints, without what the relay says of output that it cannot keep."""
    async with Channels.open(server, kernel_id) as channels:
        printed = (await asyncio.wait_for(channels.run(code), 20)).splitlines()
    return "\n".join(line for line in printed if not line.startswith("[The journal"))


async def held_are(server: RunningServer, kernels: set[str]) -> None:
    """The ledger says that these kernels hold their slots, and nobody else any."""
    path = data_of(server) / "backendai.sqlite"
    query = "SELECT DISTINCT kernel_id FROM allocations WHERE freed_at IS NULL"

    def right() -> bool:
        with sqlite3.connect(path) as db:
            holders = {row[0] for row in db.execute(query)}
            counted = db.execute("SELECT sum(reserved + used) FROM agent_slots WHERE slot = 'cpu'")
            return holders == kernels and counted.fetchone()[0] == 1000 * len(kernels)

    await eventually(right, within_s=20)


def logged_once(server: RunningServer, since: int, words: str) -> None:
    """What went wrong is in the log, in lines and without a traceback."""
    said = server.log[since:]
    assert words in said, said
    assert "Traceback" not in said, said


async def can_start_again(server: RunningServer) -> str:
    answers: list[str] = []

    async def started_one() -> str:
        answer = await start(server)
        answers.append(answer.text)
        return str(answer.json()["id"]) if answer.status_code == 201 else ""

    try:
        return await eventually(started_one, within_s=40)
    except AssertionError:
        raise AssertionError(f"{answers[-1]}\n{server.log}") from None


@NEEDS_ROOT
async def test_a_full_disk_refuses_starts_and_ends_nothing(short_tmp_path: Path) -> None:
    with SmallDisk.mounted_at(short_tmp_path / "data", size_mb=40) as disk:
        async with RunningServer(short_tmp_path, config=PROCESS) as server:
            kernel_id = await started(server, backendai=ONE)
            assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
            disk.fill()
            before = len(server.log)
            answer = await start(server)
            assert answer.status_code in {500, 503}
            assert str(data_of(server)) in answer.json()["message"]
            assert await runs(server, kernel_id) == "1"
            logged_once(server, before, str(data_of(server)))
            disk.make_room()
            other = await can_start_again(server)
            assert await runs(server, kernel_id) == "1"
            await held_are(server, {kernel_id, other})


@NEEDS_ROOT
async def test_without_room_for_a_kernels_home_its_start_names_the_disk(
    short_tmp_path: Path,
) -> None:
    """The database has room, so that the start fails at one of its steps."""
    scratch = short_tmp_path / "data" / "backendai" / "scratch"
    with SmallDisk.mounted_at(scratch, size_mb=30) as disk:
        async with RunningServer(short_tmp_path, config=PROCESS) as server:
            kernel_id = await started(server, backendai=ONE)
            assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
            disk.fill()
            before = len(server.log)
            answer = await start(server)
            assert answer.status_code == 500, answer.text
            assert answer.json()["code"] == "launch-failed"
            assert str(scratch) in answer.json()["message"]
            assert await runs(server, kernel_id) == "1"
            logged_once(server, before, answer.json()["message"])
            await held_are(server, {kernel_id})
            disk.make_room()
            other = await can_start_again(server)
            assert await runs(server, kernel_id) == "1"
            await held_are(server, {kernel_id, other})


@NEEDS_ROOT
@pytest.mark.parametrize("kernels_outlive", [True, False])
async def test_a_server_whose_disk_is_full_stops_and_the_next_one_has_things_right(
    short_tmp_path: Path, kernels_outlive: bool
) -> None:
    with SmallDisk.mounted_at(short_tmp_path / "data", size_mb=40) as disk:
        async with RunningServer(
            short_tmp_path, config=PROCESS, kernels_outlive=kernels_outlive
        ) as server:
            kernel_id = await started(server, backendai=ONE)
            assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
            disk.fill()
            server.signal(signal.SIGTERM)
            assert await server.wait() == 0
            assert lives(kernel_id) == kernels_outlive
            disk.make_room()
            await server.start()
            listed = [kernel["id"] for kernel in (await server.get("api/kernels")).json()]
            assert listed == ([kernel_id] if kernels_outlive else [])
            await held_are(server, {*listed})
            for survivor in listed:
                assert await runs(server, survivor) == "1"


@NEEDS_ROOT
async def test_a_restart_of_the_server_on_a_full_disk_costs_no_kernel(short_tmp_path: Path) -> None:
    """Whether it starts depends on how much room is left in the database's own files."""
    with SmallDisk.mounted_at(short_tmp_path / "data", size_mb=40) as disk:
        async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
            kernel_id = await started(server, backendai=ONE)
            assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
            server.signal(signal.SIGKILL)
            await server.wait()
            disk.fill()
            try:
                await server.start()
            except AssertionError:
                assert "The Backend.AI extension cannot start" in server.log
                assert str(server.root / "data") in server.log
                disk.make_room()
                await server.start()
            else:
                assert await runs(server, kernel_id) == "1"
                disk.make_room()
            assert await runs(server, kernel_id) == "1"
            await held_are(server, {kernel_id})


class AnotherProgram:
    """Holds the write lock of the database for as long as it is entered."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._connection: sqlite3.Connection

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(self._database, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


async def test_a_database_that_another_program_locks_is_waited_for_and_then_said_so(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        kernel_id = await started(server, backendai=ONE)
        assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
        before = len(server.log)
        path = data_of(server) / "backendai.sqlite"
        with AnotherProgram(path):
            asked = start(server), server.delete(f"api/kernels/{kernel_id}"), start(server)
            answers = asyncio.gather(*asked)
            assert (await server.get("backendai/v1/sessions")).status_code == 200  # meanwhile
            for answer in await answers:
                assert answer.status_code == 503, answer.text
                assert str(path) in answer.json()["message"]
        logged_once(server, before, str(path))
        other = await can_start_again(server)

        async def deleted() -> bool:
            answer = await server.delete(f"api/kernels/{kernel_id}")
            return answer.status_code in {204, 404}

        await eventually(deleted)
        assert [k["id"] for k in (await server.get("api/kernels")).json()] == [other]
        await held_are(server, {other})


async def test_a_lock_that_is_gone_before_the_time_is_up_costs_nothing_but_time(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        with AnotherProgram(data_of(server) / "backendai.sqlite"):
            starting = asyncio.ensure_future(start(server))
            for _ in range(50):  # the server goes on with what only reads
                assert (await server.get("backendai/v1/sessions")).status_code == 200
            assert not starting.done()
        answer = await starting
        assert answer.status_code == 201, answer.text
        await held_are(server, {answer.json()["id"]})


def let_open(pid: int, files: int) -> None:
    """Let a process have this many more files open than it has now; beyond all: the usual."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    now = psutil.Process(pid).num_fds()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(hard, now + files), hard))


async def test_a_server_without_files_to_open_refuses_starts_and_ends_nothing(
    short_tmp_path: Path,
) -> None:
    """F28: files that run out cost a start, and no kernel."""
    # It looks for language servers in the background, and minds that there are no files.
    others = ["--ServerApp.jpserver_extensions=jupyter_lsp=False"]
    async with RunningServer(short_tmp_path, args=others, config=PROCESS) as server:
        kernel_id = await started(server, backendai=ONE)
        async with Channels.open(server, kernel_id) as channels:
            await channels.run("x = 1")
            before = len(server.log)
            for files in (0, 1, 2, 4, 6):
                let_open(server.pid, files)
                answer = await start(server)
                assert answer.status_code in {500, 503}, answer.text
                assert "Too many open files" in answer.json()["message"]
                assert await asyncio.wait_for(channels.run("print(x)"), 10) == "1\n"
        logged_once(server, before, "Too many open files")
        let_open(server.pid, 4096)
        other = await can_start_again(server)
        await held_are(server, {kernel_id, other})


async def test_a_relay_keeps_files_for_the_clients_of_the_kernels_that_are_there(
    short_tmp_path: Path,
) -> None:
    """F28: nor do they cost anybody the way to his kernel."""
    async with RunningServer(short_tmp_path, config=PROCESS) as server:
        first = await started(server, backendai=ONE)
        relay = relay_of(server)
        let_open(relay, 194)
        second = await started(server, backendai=ONE)
        before = len(server.log)
        answer = await start(server)
        assert answer.status_code == 500
        assert "as many kernels as its relay has files for" in answer.json()["message"]
        logged_once(server, before, answer.json()["message"])
        for kernel_id in (first, second):
            assert await runs(server, kernel_id, "print(2)") == "2"
        assert (await server.delete(f"api/kernels/{second}")).status_code == 204
        third = await started(server, backendai=ONE)
        assert await runs(server, third, "print(3)") == "3"
        await held_are(server, {first, third})


def relay_of(server: RunningServer) -> int:
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "backendai_jupyter.agent.relay" in words and str(server.root) in " ".join(words):
            return int(process.info["pid"])
    raise AssertionError("there is no relay")


def overwritten(path: Path) -> None:
    path.write_bytes(b"this is no database at all, whatever it was before\n" * 200)


def half_lost(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def wiped_inside(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xa5" * (len(content) - 100))


async def test_a_server_does_not_start_on_a_damaged_database_and_overwrites_nothing(
    short_tmp_path: Path,
) -> None:
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
        kernel_id = await started(server, backendai=ONE)
        assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0
        path = data_of(server) / "backendai.sqlite"
        backup = shutil.copy(path, short_tmp_path / "backup")
        for damage in (overwritten, half_lost, wiped_inside):
            damage(path)
            damaged = path.read_bytes()
            said = await refused_start(server)
            assert "The Backend.AI extension cannot start" in said
            assert str(path) in said
            assert path.read_bytes() == damaged
            assert lives(kernel_id)
            for log in data_of(server).glob("backendai.sqlite-*"):
                log.unlink()
            shutil.copy(backup, path)
        await server.start()
        assert await runs(server, kernel_id) == "1"


async def test_a_server_starts_whatever_became_of_its_small_files_and_has_its_kernels(
    short_tmp_path: Path,
) -> None:
    """F21, F30: no single file that is lost or damaged costs a kernel."""
    async with RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server:
        kernel_id = await started(server, backendai=ONE)
        assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
        server.signal(signal.SIGKILL)
        await server.wait()
        data = data_of(server)
        (checkpoint,) = (data / "scratch").glob("*/checkpoints/*.json")
        for path in (checkpoint, data / "server" / "facts.json", data / "server" / "lock"):
            path.write_bytes(b"\xff{" * 3000)
        await server.start()
        assert await runs(server, kernel_id) == "1"
        assert (await server.get("api/sessions")).json() == []
        said = [line for line in server.log.splitlines() if "damaged" in line]
        assert len(said) == 1, server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("turn", range(5))
async def test_of_two_servers_that_start_at_once_one_says_that_the_other_is_there(
    short_tmp_path: Path, turn: int
) -> None:
    pair = [RunningServer(short_tmp_path, config=PROCESS) for _ in range(2)]
    try:
        outcomes = await asyncio.gather(*(s.start() for s in pair), return_exceptions=True)
        refused = [s for s, outcome in zip(pair, outcomes, strict=True) if outcome is not None]
        assert len(refused) == 1, outcomes
        assert await refused[0].wait() == 1
        assert "Another Jupyter Server (process " in refused[0].log
        assert "Traceback" not in refused[0].log
        (there,) = [s for s in pair if s not in refused]
        assert (await there.get("api/kernels")).json() == []
    finally:
        for server in pair:
            await server.close()


async def refused_start(server: RunningServer) -> str:
    """Start the server, which must give up by itself, and return what it said."""
    before = len(server.log)
    with pytest.raises(AssertionError, match="did not start"):
        await server.start()
    assert await server.wait() not in {0, None}
    said = server.log[before:]
    assert "Traceback" not in said, said
    return said


def lives(kernel_id: str) -> bool:
    """Whether there is a process with this kernel's environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("BACKENDAI_KERNEL_ID") == kernel_id:
                return True
        except psutil.Error:
            continue
    return False
