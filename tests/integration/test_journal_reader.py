"""The Jupyter Server's side of a kernel's journal, against a server that speaks the protocol.

Over TLS the gateway of a relay is between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.errors import Unavailable
from backendai_jupyter.provisioning.journal import JournalReader, JournalWatch, News
from tests.helpers import eventually
from tests.integration.door_rig import gateway_to
from tests.integration.journal_server import JournalServer


@pytest.fixture(params=["unix", "tls"])
async def server(
    short_tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[JournalServer]:
    running = JournalServer(short_tmp_path / "j")
    await running.start()
    if request.param == "unix":
        yield running
    else:
        async with gateway_to(running.path) as running.connection:
            yield running
    await running.stop()


class Reading:
    """A session that reads to the end, and what it has got."""

    def __init__(self, server: JournalServer, session: str = "s") -> None:
        self.is_gone = False
        self.got: list[tuple[int, bytes]] = []
        self.reader = JournalReader(session, lambda: None if self.is_gone else server.connection)

    async def read(self, *, until: int | None = None) -> None:
        async for records in self.reader:
            self.got += [(r.seq, bytes(r.frames[0])) for r in records]
            if until is not None and self.got[-1][0] >= until:
                return

    @property
    def numbers(self) -> list[int]:
        return [seq for seq, _ in self.got]


async def test_a_reader_gets_everything_once_and_in_order(server: JournalServer) -> None:
    reading = Reading(server)
    attached = await reading.reader.attach()
    assert (attached.after, attached.head, attached.known, attached.state) == (0, 0, False, "idle")
    task = asyncio.create_task(reading.read(until=2_000))
    for number in range(1, 2_001):
        await server.publish(b"%d" % number)
    async with asyncio.timeout(20):
        await task
    assert reading.got == [(number, b"%d" % number) for number in range(1, 2_001)]
    reading.reader.close()


async def test_a_record_may_be_huge(server: JournalServer) -> None:
    reading = Reading(server)
    await reading.reader.attach()
    huge = bytes(120 << 20)
    await server.publish(huge)
    await server.publish(b"small")
    async with asyncio.timeout(30):
        await reading.read(until=2)
    assert [(seq, len(data)) for seq, data in reading.got] == [(1, len(huge)), (2, 5)]
    reading.reader.close()


async def test_a_session_goes_on_after_what_it_has_acknowledged(server: JournalServer) -> None:
    first = Reading(server)
    await first.reader.attach()
    for _ in range(3):
        await server.publish(b"x")
    await first.read(until=3)
    first.reader.ack(2)
    await eventually(lambda: server.acked["s"] == 2)
    first.reader.close()
    again = Reading(server)
    assert (await again.reader.attach()).known
    await again.read(until=3)
    assert again.numbers == [3]
    again.reader.close()


async def test_a_reader_finds_a_relay_again_that_was_away(server: JournalServer) -> None:
    reading = Reading(server)
    await reading.reader.attach()
    task = asyncio.create_task(reading.read(until=4))
    await server.publish(b"1")
    await server.publish(b"2")
    await eventually(lambda: reading.numbers == [1, 2])
    reading.reader.ack(1)
    await server.stop()
    server.acked.clear()
    await server.publish(b"3")
    await server.publish(b"4")
    await server.start()
    async with asyncio.timeout(20):
        await task
    assert reading.numbers == [1, 2, 3, 4]
    assert [request["after"] for request in server.requests] == [None, 2]
    await eventually(lambda: server.acked.get("s") == 1)
    reading.reader.close()


async def test_a_reader_ends_with_its_kernel(server: JournalServer) -> None:
    reading = Reading(server)
    await reading.reader.attach()
    task = asyncio.create_task(reading.read())
    await server.publish(b"1")
    await eventually(lambda: reading.numbers == [1])
    reading.is_gone = True
    await server.stop()
    async with asyncio.timeout(20):
        await task
    with pytest.raises(Unavailable):
        await reading.reader.attach()


async def test_a_reader_does_not_go_on_in_another_journal(
    server: JournalServer, short_tmp_path: Path
) -> None:
    other = JournalServer(short_tmp_path / "j2")
    await other.start()
    where = [server.connection]
    reader = JournalReader("s", lambda: where[0])
    await reader.attach()
    where[0] = other.connection
    await server.stop()
    async with asyncio.timeout(20):
        assert [records async for records in reader] == []
    assert other.requests == []
    await other.stop()


async def test_damage_on_the_way_does_not_end_a_reader(
    server: JournalServer, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading(server)
    await reading.reader.attach()
    for _ in range(2):
        await server.publish(b"x")
    whole = server.damage(2)
    task = asyncio.create_task(reading.read(until=2))
    await eventually(lambda: len(server.requests) > 2)
    server.repair(2, whole)
    async with asyncio.timeout(20):
        await task
    assert reading.numbers == [1, 2]
    assert "no record begins" in caplog.text
    reading.reader.close()


async def test_a_slow_reader_holds_little(server: JournalServer) -> None:
    reading = Reading(server)
    await reading.reader.attach()
    for _ in range(400):
        await server.publish(bytes(64 << 10))
    assert len(await anext(reading.reader)) * (64 << 10) < (1 << 20)
    reading.reader.close()


async def test_a_watch_tells_the_state_and_what_changes_it(server: JournalServer) -> None:
    server.state = "busy"
    is_gone: list[bool] = []
    watch = JournalWatch(lambda: None if is_gone else server.connection)
    assert await anext(watch) == News("busy", None, None)
    server.tell("idle", "status", "execute_request")
    assert await anext(watch) == News("idle", "status", "execute_request")
    await server.stop()
    server.state = "starting"
    await server.start()
    assert await anext(watch) == News("starting", None, None)
    is_gone.append(True)
    await server.stop()
    assert [news async for news in watch] == []
    watch.close()
