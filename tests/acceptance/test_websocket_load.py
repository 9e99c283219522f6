"""Kernel websockets with much to carry, and with somebody who does not take it."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import V1, Clients, KernelClient, printed, relay_of
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
MB = 1_000_000
FLOOD_LINES, LINE_BYTES = 4_800, 64 << 10  # 315 MB
FLOOD = f"""
import sys
for number in range({FLOOD_LINES}):
    sys.stdout.write(f"{{number:06d}}".ljust({LINE_BYTES - 1}, ".") + chr(10))
    sys.stdout.flush()
"""
ENDLESS = "number = 0\nwhile True:\n    print('line', number, flush=True)\n    number += 1"
ECHO = """
def target(comm, message):
    (data,) = message["buffers"]
    comm.send({"size": len(data)}, buffers=[data])
get_ipython().kernel.comm_manager.register_target("echo", target)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config=PROCESS) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="module")
async def clients(server: RunningServer) -> AsyncIterator[Clients]:
    async with Clients.of_new_kernel(server) as opened:
        yield opened


async def round_trip_ms(client: KernelClient) -> float:
    durations = []
    for _ in range(50):
        began = time.perf_counter()
        await client.run("1")
        durations.append(time.perf_counter() - began)
    return statistics.median(durations) * 1000


@pytest.mark.parametrize("protocol", [V1, ""])
async def test_an_execution_makes_its_round_trip(
    clients: Clients, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await clients.open(protocol=protocol)
    await client.run("1")
    median_ms = await round_trip_ms(client)
    with capsys.disabled():
        print(f"\nround trip, {protocol or 'legacy'}: {median_ms:.1f} ms")  # noqa: T201


async def test_a_hundred_megabytes_go_both_ways(clients: Clients) -> None:
    client = await clients.open()
    await client.run(ECHO)
    data = bytes(range(256)) * (100 * MB // 256)
    opening = {"comm_id": "c", "target_name": "echo", "data": {}}
    await client.send("comm_open", opening, buffers=(data,))
    echo = (await client.until(lambda m: m.type == "comm_msg", within_s=60))[-1]
    assert echo.content["data"] == {"size": len(data)}
    assert echo.buffers == [data]


async def test_a_client_that_stops_reading_costs_little_and_loses_nothing(
    server: RunningServer, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await clients.open()
    await client.run("1")
    growth = {"server": Growth(psutil.Process(server.pid)), "relay": Growth(relay_of(server))}
    msg_id = await client.execute(FLOOD)
    stopped_at = time.monotonic()

    def have_waited() -> bool:
        for one in growth.values():
            one.measure()
        return time.monotonic() > stopped_at + 10

    await eventually(have_waited, within_s=30)
    count = 0
    message = await client.next()
    while not message.is_idle_of(msg_id):
        for line in printed([message]).splitlines():
            assert int(line.rstrip(".")) == count
            count += 1
        have_waited()
        message = await client.next()
    assert count == FLOOD_LINES
    with capsys.disabled():
        for name, one in growth.items():
            print(f"\n{name}: {one.bytes / MB:.0f} MB more at most", end="")  # noqa: T201
    assert growth["server"].bytes < 100 * MB
    assert growth["relay"].bytes < 100 * MB


async def test_an_interrupt_gets_through_a_flood(
    server: RunningServer, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await clients.open()
    await client.execute(ENDLESS)
    await client.until(lambda m: "line 2000\n" in printed([m]))
    began = time.perf_counter()
    assert (await server.post(f"api/kernels/{clients.kernel_id}/interrupt")).is_success

    async def is_idle() -> bool:
        kernel = (await server.get(f"api/kernels/{clients.kernel_id}")).json()
        return bool(kernel["execution_state"] == "idle")

    await eventually(is_idle, within_s=30)
    idle_s = time.perf_counter() - began
    messages = await client.until(lambda m: m.type == "error", within_s=60)
    seen_s = time.perf_counter() - began
    with capsys.disabled():
        print(f"\ninterrupted after {idle_s:.2f} s, told after {seen_s:.2f} s")  # noqa: T201
    assert messages[-1].content["ename"] == "KeyboardInterrupt"
    assert printed(await client.run("print('well')")) == "well\n"


class Growth:
    """How much memory a process has taken, at most, since then."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._at_first: int = process.memory_info().rss
        self.bytes = 0

    def measure(self) -> int:
        self.bytes = max(self.bytes, self._process.memory_info().rss - self._at_first)
        return self.bytes
