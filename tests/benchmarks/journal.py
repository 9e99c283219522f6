"""How fast a journal is read here and from elsewhere: ``python -m tests.benchmarks.journal``.

One kernel behind one relay; the unix socket and TLS take turns.  *Stored*: 50 MB in 64 KB
messages that are in the journal already.  *Live*: the same while it is printed.  *Round trip*:
from an execute_request until its reader has the reply.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.agent.relay.records import Kind, Record
from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.journal import JournalReader
from tests.integration.door_rig import elsewhere
from tests.integration.relay_rig import KEEP_ALL, Rig, rig, run, stock_client

ROUNDS, TRIPS = 7, 100
PIECES, PIECE_BYTES = 800, 65_536
MB = PIECES * PIECE_BYTES / 1_000_000
FLOOD = f"part = 'x' * {PIECE_BYTES - 1}\nfor _ in range({PIECES}): print(part, flush=True)"
JOURNAL_BYTES = 256 << 20


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bj-") as directory:
        async with rig(Path(directory), started=False, journal_bytes=JOURNAL_BYTES) as kernel:
            await kernel.start(KEEP_ALL)
            ways = {"unix socket": kernel.connection, "TLS": elsewhere(kernel.connection)}
            live, trips = await measured_live(kernel, ways)
            stored = await measured_stored(kernel, ways)
    for way in ways:
        print(  # noqa: T201 - what this program is for
            f"{way:12} stored {MB / statistics.median(stored[way]):4.0f} MB/s, "
            f"live {MB / statistics.median(live[way]):4.0f} MB/s, "
            f"round trip {statistics.median(trips[way]) * 1000:.2f} ms, "
            f"95 % {statistics.quantiles(trips[way], n=20)[-1] * 1000:.2f} ms"
        )


async def measured_stored(kernel: Rig, ways: dict[str, Connection]) -> dict[str, list[float]]:
    async with stock_client(kernel.connection) as client:
        first = await head_of(kernel.connection)
        await client.do(run, FLOOD)
    last = await head_of(kernel.connection)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, connection in ways.items():
            began = time.perf_counter()
            reader = JournalReader("benchmark", lambda chosen=connection: chosen)  # type: ignore[misc]
            await reader.attach(first)
            await until(reader, lambda record: record.seq >= last)
            taken[way].append(time.perf_counter() - began)
            reader.close()
    return taken


async def measured_live(
    kernel: Rig, ways: dict[str, Connection]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    floods: dict[str, list[float]] = {way: [] for way in ways}
    trips: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, connection in ways.items():
            async with stock_client(kernel.connection) as client:
                await client.do(lambda blocking: blocking.iopub_channel.stop())
                reader = JournalReader("benchmark", lambda chosen=connection: chosen)  # type: ignore[misc]
                await reader.attach(await head_of(kernel.connection))
                for _ in range(TRIPS):
                    trips[way].append(await timed(client.do, reader, "1"))
                floods[way].append(await timed(client.do, reader, FLOOD))
                reader.close()
    return floods, trips


async def timed(do: Callable[..., Awaitable[str]], reader: JournalReader, code: str) -> float:
    """Execute ``code`` and return the seconds until its reply is read."""
    began = time.perf_counter()
    asking = asyncio.ensure_future(do(BlockingKernelClient.execute, code))
    await until(reader, lambda record: record.kind is Kind.SHELL)
    taken_s = time.perf_counter() - began
    await asking
    return taken_s


async def until(reader: JournalReader, is_last: Callable[[Record], bool]) -> None:
    async for records in reader:
        if any(is_last(record) for record in records):
            return


async def head_of(connection: Connection) -> int:
    reader = JournalReader("head", lambda: connection)
    head = (await reader.attach()).head
    reader.close()
    return head


if __name__ == "__main__":
    asyncio.run(main())
