"""What stands between a kernel's output and its loss: slow readers, full disks, a killed relay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.records import HEADER, Kind
from backendai_jupyter.errors import RelayFailed
from tests.helpers import eventually
from tests.integration.journal_rig import (
    Entry,
    StandstillProbe,
    ask,
    attached,
    eventually_acked,
    finish,
    has_text,
    idle_of,
    request_of,
    session_of,
    stored_bytes,
    text_of,
    until_replied,
)
from tests.integration.relay_rig import (
    KEEP_ALL,
    TIMEOUT_S,
    Rig,
    open_kernel,
    rig,
    run,
    stock_client,
)
from tests.small_disk import NEEDS_ROOT, SmallDisk

MIB = 1 << 20
LINE_BYTES = 65_536
# Kills its relay, which may have the request from its client before it has written it down.
FATAL = """
import os, time
while not os.path.exists(%r):
    time.sleep(0.01)
os.kill(%d, 9)
"""


def flood(lines: int) -> str:
    """Return code that prints numbered lines of ``LINE_BYTES``, each as a message."""
    return f"for i in range({lines}): print(f'{{i:06d}}'.ljust({LINE_BYTES - 1}, '.'), flush=True)"


def numbers_in(text: str) -> list[int]:
    return [int(line[:6]) for line in text.splitlines()]


def relay_rss(kernel: Rig) -> int:
    return int(psutil.Process(kernel.relay.pid).memory_info().rss)


def notices(entries: list[Entry]) -> list[Entry]:
    """Return what the relay itself says; kernels say something to stderr when they start."""
    return [entry for entry in entries if entry.text.startswith("[")]


async def test_a_reader_that_stops_reading_holds_the_kernel_up_and_loses_nothing(
    short_tmp_path: Path,
) -> None:
    lines = 200 * MIB // LINE_BYTES
    async with rig(short_tmp_path, started=False, journal_bytes=32 * MIB) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            session = await session_of(client)
            async with attached(kernel, session) as slow:
                before_bytes = relay_rss(kernel)
                eager = asyncio.ensure_future(client.do(output_of, flood(lines)))
                await eventually(StandstillProbe(kernel, above_bytes=12 * MIB), within_s=30)
                assert stored_bytes(kernel) < 20 * MIB  # half of what it may be, and a burst
                assert not eager.done()
                grown_bytes = relay_rss(kernel) - before_bytes
                entries = await slow.until(has_text(f"{lines - 1:06d}"))
                assert await eager == list(range(lines))
    assert numbers_in(text_of(entries)) == list(range(lines))
    assert grown_bytes < 60 * MIB


async def test_a_subscriber_that_stops_reading_holds_the_kernel_up_and_loses_nothing(
    short_tmp_path: Path,
) -> None:
    lines = 100 * MIB // LINE_BYTES

    def begin(client: BlockingKernelClient) -> None:
        client.iopub_channel.socket.rcvhwm = 10
        client.execute(flood(lines))

    async with rig(short_tmp_path, started=False, journal_bytes=256 * MIB) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            before_bytes = relay_rss(kernel)
            await client.do(begin)
            await eventually(StandstillProbe(kernel, above_bytes=8 * MIB), within_s=30)
            assert stored_bytes(kernel) < 90 * MIB
            grown_bytes = relay_rss(kernel) - before_bytes
            assert await client.do(numbers_until_idle) == list(range(lines))
    assert grown_bytes < 60 * MIB


async def test_nobody_who_reads_means_no_pause_and_a_notice_of_what_is_dropped(
    short_tmp_path: Path,
) -> None:
    lines = 16 * MIB // LINE_BYTES
    async with rig(short_tmp_path, started=False, journal_bytes=4 * MIB) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            session = await session_of(client)
            head = await head_of(kernel, session)
            await eventually_acked(kernel, session, head)
            msg_id = await ask(client, flood(lines))
            await finish(client, msg_id)
            assert stored_bytes(kernel) <= 4 * MIB
            async with attached(kernel, session) as reader:
                entries = await reader.until(idle_of(msg_id))
    [notice] = notices(entries)
    assert "MB) of output are missing here: at most 4 MiB are kept" in notice.text
    assert notice.parent["msg_id"] == msg_id
    index = entries.index(notice)
    assert entries[index + 1].seq == notice.seq + 1
    kept = numbers_in(text_of(entries[index + 1 :]))
    assert kept == list(range(lines))[-len(kept) :]


async def test_kernel_clients_and_readers_go_on_after_the_relay_was_killed(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "x = 'kept'")
        session = await session_of(client)
        async with attached(kernel, session) as reader:
            msg_id = await ask(client, "print('before')")
            before = await reader.until(idle_of(msg_id))
            await kernel.replace_relay()
            await reader.ended()
        assert await client.do(run_until_answered, "print(x)") == "kept\n"
        async with attached(kernel, session, before[-1].seq) as reader:
            assert reader.answer["known"]
            msg_id = await ask(client, "print('after')")
            after = await reader.until(idle_of(msg_id))
    assert after[0].seq == before[-1].seq + 1
    assert text_of(before) == "before\n"
    assert text_of(after).endswith("after\n")


async def test_a_cell_whose_reply_was_lost_with_the_relay_ends_with_an_error(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        session = await session_of(client)
        async with attached(kernel, session) as reader:
            may_go_on = short_tmp_path / "may-go-on"
            msg_id = await ask(client, FATAL % (str(may_go_on), kernel.relay.pid))
            await reader.until(request_of(msg_id))
            may_go_on.touch()
            await reader.ended()
        await kernel.find_relay_lost()
        await kernel.relay.open()
        await kernel.open_again()
        async with attached(kernel, session, 0) as reader:
            entries = await reader.until(idle_of(msg_id))
            entries += await until_replied(reader, entries)
    [error] = [entry for entry in entries if entry.header["msg_type"] == "error"]
    assert error.content["ename"] == "KernelReplyLost"
    [reply] = [entry for entry in entries if entry.header["msg_type"] == "execute_reply"]
    assert (reply.route, reply.parent["msg_id"]) == (session, msg_id)
    assert reply.content["status"] == "error"


async def test_ports_that_were_taken_meanwhile_are_named(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        other = RelayClient(short_tmp_path / "other")
        await other.open()
        try:
            with pytest.raises(RelayFailed, match=r"Port \d+ of 127.0.0.1.* has meanwhile been"):
                await open_kernel(other, short_tmp_path, endpoint=kernel.endpoint)
            assert await other.kernels() == []
        finally:
            await other.close(stop=True)


async def test_half_a_record_at_the_end_of_a_journal_is_cut_off(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "print('whole')")
        segment = sorted(kernel.journal.glob("*.seg"))[-1]
        await kernel.replace_relay(lambda: segment.write_bytes(with_half_a_record(segment)))
        assert await client.do(run_until_answered, "print('next')") == "next\n"
        async with attached(kernel, "reader", 0) as reader:
            entries = await reader.until(has_text("next"))
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert (text_of(entries), notices(entries)) == ("whole\nnext\n", [])


async def test_damage_in_the_middle_of_a_journal_costs_what_was_damaged(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "for i in range(20): print(i, flush=True)")
        segment = sorted(kernel.journal.glob("*.seg"))[-1]
        await kernel.replace_relay(lambda: segment.write_bytes(damaged(segment)))
        assert await client.do(run_until_answered, "print('next')") == "next\n"
        async with attached(kernel, "reader", 0) as reader:
            entries = await reader.until(has_text("next"))
    [notice] = notices(entries)
    assert "of output is missing here: the journal on the disk was damaged" in notice.text
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert text_of(entries).split() == [str(i) for i in range(20) if i != 10] + ["next"]


@NEEDS_ROOT
async def test_a_disk_that_is_too_small_keeps_the_latest(short_tmp_path: Path) -> None:
    lines = 8 * MIB // LINE_BYTES
    with SmallDisk.mounted_at(short_tmp_path / "disk", size_mb=1) as disk:
        async with rig(short_tmp_path, started=False, journal=disk.path / "j") as kernel:
            await kernel.start(KEEP_ALL)
            async with stock_client(kernel.connection) as client, attached(kernel, "me") as reader:
                msg_id = await ask(client, flood(lines))
                entries = await reader.until(idle_of(msg_id))
                await finish(client, msg_id)
                assert 0 < stored_bytes(kernel) <= MIB
    assert numbers_in(text_of(entries)) == list(range(lines))
    assert len(notices(entries)) <= 1  # that the disk is full, if it was ahead of the reader


@NEEDS_ROOT
async def test_readers_get_everything_while_the_disk_is_full_and_are_told_once(
    short_tmp_path: Path,
) -> None:
    lines = 8 * MIB // LINE_BYTES
    with SmallDisk.mounted_at(short_tmp_path / "disk", size_mb=1) as disk:
        async with rig(short_tmp_path, started=False, journal=disk.path / "j") as kernel:
            await kernel.start(KEEP_ALL)
            async with stock_client(kernel.connection) as client, attached(kernel, "me") as reader:
                disk.fill()
                msg_id = await ask(client, flood(lines))
                entries = await reader.until(idle_of(msg_id))
                assert await client.do(numbers_until_idle) == list(range(lines))
                disk.make_room()
                await client.do(run, "print('room again')")
                async with attached(kernel, "late", 0) as late:
                    later = await late.until(has_text("room again"))
    [told] = notices(entries)
    assert "cannot be written: No space left on device" in told.text
    assert numbers_in(text_of(entries)) == list(range(lines))
    assert "the disk had no room for it" in notices(later)[-1].text
    assert Kind.IOPUB in {entry.kind for entry in later}


def output_of(client: BlockingKernelClient, code: str) -> list[int]:
    client.execute(code)
    return numbers_until_idle(client)


def numbers_until_idle(client: BlockingKernelClient) -> list[int]:
    """Return the numbers of the lines that a flood printed, as a subscriber gets them."""
    text = ""
    while True:
        content = client.get_iopub_msg(timeout=TIMEOUT_S)["content"]
        if content.get("name") == "stdout":
            text += content["text"]
        elif text and content.get("execution_state") == "idle":
            return numbers_in(text)


def run_until_answered(client: BlockingKernelClient, code: str) -> str:
    """Run code although iopub may not be connected again: what was missed is run again."""
    client.wait_for_ready(timeout=TIMEOUT_S)
    return run(client, code)


async def head_of(kernel: Rig, session: str) -> int:
    async with attached(kernel, session) as reader:
        return int(reader.answer["after"])


def with_half_a_record(segment: Path) -> bytes:
    whole = segment.read_bytes()
    return whole + whole[: HEADER.size + 10]


def damaged(segment: Path) -> bytes:
    """Return the segment with a byte changed where the kernel printed 10."""
    data = bytearray(segment.read_bytes())
    data[data.index(b'"10\\n"') + 1] ^= 1
    return bytes(data)
