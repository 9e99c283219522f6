"""A real relay's journals, read by TLS as from another machine."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.gateway import INTRODUCTION_S, MAX_NEWCOMERS, certificate_in
from backendai_jupyter.agent.relay.identity import ensure_identity
from backendai_jupyter.agent.relay.records import Kind, Record
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.glance import glance
from backendai_jupyter.provisioning.journal import Attached, JournalReader, JournalWatch
from backendai_jupyter.provisioning.journal_link import open_journal
from tests.acceptance.links import LinkThatVanishes
from tests.helpers import eventually
from tests.integration.door_rig import door_of, elsewhere, knock
from tests.integration.journal_rig import StandstillProbe, ask
from tests.integration.relay_rig import KEEP_ALL, open_kernel, rig, run, stock_client

COUNT = "import time\nfor i in range({}): print(i, flush=True); time.sleep({})"
NOTICED_WITHIN_S = 10.0
MB = 1 << 20
PIECES = 3_200  # of 64 KiB, which makes 200 MB
FLOOD = f"part = 'x' * 65535\nfor _ in range({PIECES}): print(part, flush=True)\nprint('end')"
VOLUME_BYTES = PIECES * 65_536 + len("end\n")


class Far:
    """A reader on another machine, and what the kernel has printed for it."""

    def __init__(self, connection: Connection) -> None:
        self.returned: list[Attached] = []
        self.texts: list[str] = []
        self.numbers: list[int] = []
        self.reader = JournalReader("far", lambda: connection, self.returned.append)

    async def read(self, *, until: str) -> None:
        """Read until a line is printed that begins with ``until``."""
        async for records in self.reader:
            self.numbers += [record.seq for record in records]
            texts = [text for record in records if (text := printed_by(record))]
            self.texts += texts
            if any(f"\n{until}" in f"\n{text}" for text in texts):
                return

    @property
    def lines(self) -> list[str]:
        return "".join(self.texts).split()


@asynccontextmanager
async def far(connection: Connection) -> AsyncIterator[Far]:
    reader = Far(connection)
    await reader.reader.attach()
    try:
        yield reader
    finally:
        reader.reader.close()


def printed_by(record: Record) -> str:
    if record.kind is not Kind.IOPUB or b'"stream"' not in bytes(record.frames[1]):
        return ""
    return str(json.loads(bytes(record.frames[4]))["text"])


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def closed(reader: asyncio.StreamReader, *, within_s: float = 5.0) -> bytes:
    """Return what still came until the other side ended it."""
    try:
        async with asyncio.timeout(within_s):
            return await reader.read()
    except ConnectionError:
        return b""


async def test_what_is_read_from_another_machine_is_what_is_read_here(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        async with far(elsewhere(kernel.connection)) as there:
            await ask(client, COUNT.format(50, 0) + "\nprint('end')")
            await there.read(until="end")
        assert there.lines == [*numbered(50), "end"]
        assert glance(elsewhere(kernel.connection)) == glance(kernel.connection)
        watch = JournalWatch(lambda: elsewhere(kernel.connection))
        assert (await anext(watch)).state == "idle"
        watch.close()


async def test_nothing_is_read_without_the_right_token(short_tmp_path: Path) -> None:
    watch = b'{"op": "watch"}\n'
    async with rig(short_tmp_path, started=False) as kernel:
        token = door_of(kernel.connection).token
        wrong = ["", "k1", "k1:", token[:-1], token + "0", token.replace("k1", "k2"), 7, None]
        lines = [json.dumps({"token": guess}).encode() for guess in wrong]
        for line in [*lines, b"[]", b"{}", b"x" * 5_000, b'{"token": "\\ud800"}', b"\xff"]:
            reader, writer = await knock(kernel.connection, line + b"\n", watch)
            assert await closed(reader) == b""
            writer.close()
        introduction = json.dumps({"token": token}).encode() + b"\n"
        reader, writer = await knock(kernel.connection, introduction, watch)
        assert json.loads(await reader.readline())["state"] == "starting"
        writer.close()
        await kernel.relay.close_kernel("k1")
        reader, writer = await knock(kernel.connection, introduction, watch)
        assert await closed(reader) == b""
        writer.close()


async def test_the_journal_of_one_kernel_is_not_opened_by_the_token_of_another(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        other = await open_kernel(kernel.relay, short_tmp_path, "k2", prefix=f"{short_tmp_path}/o")
        assert other.journal_port == kernel.endpoint.journal_port
        assert other.journal_token != kernel.endpoint.journal_token
        mixed = other.journal_token.replace("k2:", "k1:")
        reader, writer = await knock(
            kernel.connection, json.dumps({"token": mixed}).encode() + b'\n{"op": "watch"}\n'
        )
        assert await closed(reader) == b""
        writer.close()


async def test_only_the_certificate_that_the_agent_told_is_trusted(short_tmp_path: Path) -> None:
    ensure_identity(short_tmp_path / "another.pem")
    another = certificate_in(short_tmp_path / "another.pem")
    async with rig(short_tmp_path, started=False) as kernel:
        assert (short_tmp_path / "control.pem").stat().st_mode & 0o077 == 0
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_journal(elsewhere(kernel.connection, certificate=another))
        (await open_journal(elsewhere(kernel.connection))).close()


async def test_what_is_no_tls_is_turned_away(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        door = door_of(kernel.connection)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b'{"token": "x"}\n'):
            reader, writer = await asyncio.open_connection(door.host, door.port)
            writer.write(garbage)
            await closed(reader)
            writer.close()
        old = ssl.create_default_context(cadata=door.certificate)
        old.check_hostname = False
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(door.host, door.port, ssl=old)
        (await open_journal(elsewhere(kernel.connection))).close()
        log = (short_tmp_path / "control.log").read_text()
    assert "Traceback" not in log
    assert door.token not in log


async def test_strangers_who_say_nothing_keep_nobody_out(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        door = door_of(kernel.connection)
        relay = psutil.Process(kernel.relay.pid)
        before = relay.num_fds()
        came = time.monotonic()
        strangers = [
            await asyncio.open_connection(door.host, door.port) for _ in range(3 * MAX_NEWCOMERS)
        ]
        await eventually(lambda: before < relay.num_fds() <= before + MAX_NEWCOMERS + 1)
        async with far(elsewhere(kernel.connection)):
            for reader, writer in strangers:
                await closed(reader, within_s=3 * INTRODUCTION_S)
                writer.close()
            assert time.monotonic() - came < 2 * INTRODUCTION_S
            await eventually(lambda: relay.num_fds() < before + 10)


async def test_a_reader_that_stops_reading_costs_little_and_holds_up_nobody(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        await kernel.start(KEEP_ALL)
        relay = psutil.Process(kernel.relay.pid)
        async with (
            stock_client(kernel.connection) as client,
            far(elsewhere(kernel.connection)) as slow,
        ):
            before = relay.memory_info().rss
            eager = asyncio.ensure_future(client.do(run, FLOOD))
            await eventually(StandstillProbe(kernel, above_bytes=12 * MB), within_s=60)
            assert not eager.done()
            assert glance(elsewhere(kernel.connection)).state == "busy"  # it waits 2 s at most
            grown = [relay.memory_info().rss - before]
            async with asyncio.timeout(60):
                await slow.read(until="end")
            grown.append(relay.memory_info().rss - before)
            assert len(await eager) == VOLUME_BYTES
    assert sum(map(len, slow.texts)) == VOLUME_BYTES
    assert slow.numbers == [*range(slow.numbers[0], slow.numbers[-1] + 1)]
    assert max(grown) < 60 * MB


async def test_a_reader_finds_a_relay_on_the_same_port_that_was_killed(
    short_tmp_path: Path,
) -> None:
    async with (
        rig(short_tmp_path) as kernel,
        stock_client(kernel.connection) as client,
        far(elsewhere(kernel.connection)) as there,
    ):
        await ask(client, COUNT.format(300, 0.01) + "\nprint('end')")
        await there.read(until="100")
        await kernel.replace_relay()
        async with asyncio.timeout(30):
            await there.read(until="end")
    assert len(there.returned) == 1
    assert there.numbers == [*range(there.numbers[0], there.numbers[-1] + 1)]
    assert there.lines[-1] == "end"


async def test_another_agent_takes_over_and_readers_notice_nothing(short_tmp_path: Path) -> None:
    async with (
        rig(short_tmp_path) as kernel,
        stock_client(kernel.connection) as client,
        far(elsewhere(kernel.connection)) as there,
    ):
        await ask(client, COUNT.format(200, 0.01) + "\nprint('end')")
        await there.read(until="50")
        successor = RelayClient(short_tmp_path / "control")
        await successor.open()
        former, kernel.relay = kernel.relay, successor
        await former.close(stop=False)
        assert await kernel.open_again() == kernel.endpoint
        await there.read(until="end")
    assert there.returned == []
    assert there.lines == [*numbered(200), "end"]


async def test_a_link_that_vanishes_is_noticed_and_the_session_goes_on(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        door = door_of(kernel.connection)
        async with (
            LinkThatVanishes.to(f"http://{door.host}:{door.port}") as link,
            far(elsewhere(kernel.connection, link.url)) as there,
        ):
            await ask(client, COUNT.format(1_500, 0.01) + "\nprint('end')")
            await there.read(until="100")
            await link.vanish(at_once=True)
            began = time.monotonic()
            rest = asyncio.create_task(there.read(until="end"))
            await eventually(lambda: there.returned, within_s=NOTICED_WITHIN_S)
            assert time.monotonic() - began < NOTICED_WITHIN_S
            async with asyncio.timeout(30):
                await rest
    assert there.lines == [*numbered(1_500), "end"]
    assert there.numbers == [*range(there.numbers[0], there.numbers[-1] + 1)]


async def test_a_link_on_which_nothing_happens_is_kept(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        watch = JournalWatch(lambda: elsewhere(kernel.connection))
        async with far(elsewhere(kernel.connection)) as there:
            await anext(watch)
            await ask(client, "import time; time.sleep(12); print('end')")
            reading = asyncio.create_task(there.read(until="end"))
            states = [(await anext(watch)).state for _ in range(2)]
            await reading
        watch.close()
    assert (there.returned, there.lines) == ([], ["end"])
    assert states[0] == "busy"
