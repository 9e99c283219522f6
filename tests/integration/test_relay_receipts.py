"""What a Python kernel says while its relay is killed and replaced: all of it comes, once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.helpers import eventually
from tests.integration.journal_rig import (
    Entry,
    ask,
    attached,
    has_text,
    idle_of,
    session_of,
    text_of,
    until_replied,
)
from tests.integration.relay_rig import KEEP_ALL, TIMEOUT_S, Client, Rig, rig, stock_client

MOST_BYTES = 40 << 20  # by which a kernel that waits may grow; 12 are usual
FLOOD = "for n in range({count}): print('<%d>' % n + 'x' * {fill}, flush=True)"


@dataclass(frozen=True)
class Load:
    """Numbered messages, and at which of them the relay is killed."""

    count: int
    fill_bytes: int
    kills: Sequence[int]

    @property
    def code(self) -> str:
        return FLOOD.format(count=self.count, fill=self.fill_bytes)

    @property
    def text(self) -> str:
        return "".join(f"<{n}>{'x' * self.fill_bytes}\n" for n in range(self.count))


@pytest.mark.parametrize(
    "load",
    [Load(20_000, 8, (500, 4_000, 9_000, 15_000)), Load(800, 65_500, (20, 200, 400, 700))],
    ids=["small", "large"],
)
async def test_output_is_complete_and_comes_once_whenever_the_relay_is_killed(
    short_tmp_path: Path, load: Load
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            session = await writer_of(client)
            msg_id = await ask(client, load.code)
            entries: list[Entry] = []
            for number in load.kills:
                async with attached(kernel, session, last_of(entries)) as reader:
                    entries += await reader.until(has_text(f"<{number}>"))
                    await kernel.replace_relay()
            async with attached(kernel, session, last_of(entries)) as reader:
                entries += await reader.until(idle_of(msg_id))
    assert text_of(entries) == load.text
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


async def test_a_cell_that_ended_while_no_relay_was_there_ends_after_all_its_output(
    short_tmp_path: Path,
) -> None:
    load, go, done = Load(1_500, 8, ()), short_tmp_path / "go", short_tmp_path / "done"
    waiting = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    async with rig(short_tmp_path, started=False) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            session = await writer_of(client)
            async with attached(kernel, session) as reader:
                code = f"print('begun', flush=True)\n{waiting}\n{load.code}"
                msg_id = await ask(client, f"{code}\nopen({str(done)!r}, 'w').close()")
                await reader.until(has_text("begun"))
                os.kill(kernel.relay.pid, signal.SIGKILL)
            await kernel.find_relay_lost()
            go.touch()
            await eventually(done.exists)
            await kernel.relay.open()
            await kernel.open_again()
            async with attached(kernel, session, 0) as reader:
                entries = await reader.until(idle_of(msg_id))
                assert text_of(entries) == f"begun\n{load.text}"
                entries += await until_replied(reader, entries)
                if not errors_in(entries):  # it comes by another way than the reply
                    entries += await reader.until(lambda entry: bool(errors_in([entry])))
    [error] = errors_in(entries)
    assert error.content["ename"] == "KernelReplyLost"
    assert "its output is complete" in error.content["evalue"]
    [reply] = [entry for entry in entries if entry.header["msg_type"] == "execute_reply"]
    assert (reply.route, reply.parent["msg_id"]) == (session, msg_id)
    assert len([entry for entry in entries if idle_of(msg_id)(entry)]) == 1


async def test_without_a_relay_the_kernel_keeps_little_and_waits(short_tmp_path: Path) -> None:
    load, progress = Load(800, 65_500, ()), short_tmp_path / "progress"
    progress.write_text("0")
    async with rig(short_tmp_path, started=False) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            session = await writer_of(client)
            noted = f"{load.code}; at.seek(0); at.write(str(n)); at.flush()"
            async with attached(kernel, session) as reader:
                msg_id = await ask(client, f"at = open({str(progress)!r}, 'w')\n{noted}")
                before = await reader.until(has_text("<10>"))
                os.kill(kernel.relay.pid, signal.SIGKILL)
            before_bytes = rss(kernel)
            await eventually(Standstill(progress), within_s=TIMEOUT_S)
            assert int(progress.read_text()) < load.count - 1
            assert rss(kernel) - before_bytes < MOST_BYTES
            await kernel.find_relay_lost()
            await kernel.relay.open()
            await kernel.open_again()
            async with attached(kernel, session, last_of(before)) as reader:
                after = await reader.until(idle_of(msg_id))
    assert text_of([*before, *after]) == load.text


class Standstill:
    """Sees when a file has not changed for half a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last, self._since_s = "", time.monotonic()

    def __call__(self) -> bool:
        text, now_s = self._path.read_text(), time.monotonic()
        if text != self._last:
            self._last, self._since_s = text, now_s
        return now_s - self._since_s > 0.5


async def writer_of(client: Client) -> str:
    """Return the session of a client that does not subscribe, so as not to hold a flood up."""
    await client.do(lambda blocking: blocking.iopub_channel.stop())
    return await session_of(client)


def last_of(entries: list[Entry]) -> int:
    return entries[-1].seq if entries else 0


def rss(kernel: Rig) -> int:
    assert kernel.program is not None
    return int(psutil.Process(kernel.program.pid).memory_info().rss)


def errors_in(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.header["msg_type"] == "error"]
