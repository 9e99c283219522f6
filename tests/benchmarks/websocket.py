"""What a browser gets from a kernel's websocket: ``python -m tests.benchmarks.websocket``.

A Jupyter Server as it comes, one whose limits of output are lifted, and one of ours for each
runtime run at the same time and take turns, so that a busy machine disturbs all alike.  Clients
leave TCP as they find it, as browsers do.  The last table holds the project's own bars.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bare_kernel import BareKernel
from tests.benchmarks.channel import LEGACY, LIFTED, REPLY, STOCK, V1, Channel, Contender
from tests.benchmarks.disturbance import disturbance_of
from tests.benchmarks.relay import say
from tests.benchmarks.start import Bar
from tests.engine import PrivateEngine
from tests.server import RunningServer

BARE = "no server"
LIFT = (
    "--ZMQChannelsWebsocketConnection.limit_rate=False",
    "--ZMQChannelsWebsocketConnection.iopub_msg_rate_limit=0",
    "--ZMQChannelsWebsocketConnection.iopub_data_rate_limit=0",
)
MAX_TRIP_RATIO = 0.15
MAX_DISTURBED_RATIO = 1.10
ROUNDS, TRIPS = 10, 10
VOLUME_MB, DISPLAYS = 50, 10_000
SLOW_S = 20.0
WRITES = "part = 'x' * 65535\nfor _ in range({count}): print(part, flush=True)"
SHOWS = """
from IPython.display import display
for _ in range({count}): display({{"text/plain": "x"}}, raw=True)
"""
FLOOD = WRITES.format(count=2_000_000_000 // 65536)  # 2 GB

Values = dict[str, float]  # by contender


@dataclass(frozen=True, slots=True)
class Strain:
    """What a flood of output to a slow client does."""

    growth_mb: float
    interrupt_s: float


async def main() -> None:
    arguments = _parse(sys.argv[1:])
    runtimes = arguments.runtimes.split(",")
    load_before = os.getloadavg()
    async with _contenders(runtimes) as contenders:
        unlimited = [one for one in contenders if one.name != STOCK]
        trips = {name: await _trips(contenders, p) for name, p in (("v1", V1), ("legacy", LEGACY))}
        rates = await _rates(unlimited, arguments.repeat)
        disturbed = {one.name: await disturbance_of(one) for one in unlimited}
        strains = {one.name: await _strain(one) for one in unlimited}
    bars = []
    for runtime in runtimes:
        for name, values in trips.items():
            ratio = values[runtime] / values[STOCK]
            bars.append(Bar(f"{runtime}: round trip, {name}, x stock", ratio, MAX_TRIP_RATIO, "x"))
        what = f"{runtime}: round trip while another kernel floods, x quiet"
        bars.append(Bar(what, disturbed[runtime].ratio, MAX_DISTURBED_RATIO, "x"))
    for name, values in trips.items():
        _print(f"execute to reply and idle, {name} [ms]", values, STOCK)
    for label, values in rates.items():
        _print(label, values, LIFTED)
    ratios = {name: disturbance.ratio for name, disturbance in disturbed.items()}
    lone_ms = {name: disturbance.lone_ms for name, disturbance in disturbed.items()}
    _print("round trips while another kernel floods [x quiet]", ratios, LIFTED)
    _print("a single one then takes longer by [ms]", lone_ms, LIFTED)
    growth = {name: strain.growth_mb for name, strain in strains.items()}
    interrupts = {name: strain.interrupt_s for name, strain in strains.items()}
    _print("memory of server and relay for a slow client of 2 GB, growth [MB]", growth, LIFTED)
    _print("interrupt of the flood, to its reply at the client [s]", interrupts, LIFTED)
    say("")
    for bar in bars:
        verdict = "holds" if bar.holds else "MISSED"
        say(f"  {bar.what:64}{bar.measured:8.3f} <= {bar.limit:.2f} {bar.unit:3}{verdict}")
    say(f"\nload before {load_before}, after {os.getloadavg()}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtimes", default="process,docker", help="those of ours, by comma")
    parser.add_argument("--repeat", type=int, default=3, help="floods of each kind")
    return parser.parse_args(arguments)


@asynccontextmanager
async def _contenders(runtimes: Sequence[str]) -> AsyncIterator[list[Contender]]:
    async with AsyncExitStack() as stack:
        settings: dict[str, dict[str, object]] = {name: {"runtime": name} for name in runtimes}
        if "docker" in runtimes:
            engine = PrivateEngine()
            stack.callback(engine.stop)
            await asyncio.to_thread(engine.start)
            await asyncio.to_thread(engine.ensure_images, ["python"])
            settings["docker"]["docker_url"] = engine.url
        contenders = []
        for name in (STOCK, LIFTED, *runtimes):
            root = Path(tempfile.mkdtemp(prefix="bj-"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            traits = settings.get(name, {}).items()
            server = RunningServer(
                root,
                args=LIFT if name == LIFTED else (),
                config="".join(
                    f"c.BackendAIAgent.{trait} = {value!r}\n" for trait, value in traits
                ),
                enable=name in runtimes,
            )
            contenders.append(Contender(name, await stack.enter_async_context(server)))
        yield contenders


async def _trips(contenders: Sequence[Contender], protocol: str) -> Values:
    """Return the median of 100 round trips of each, in ms, and of a kernel without a server."""
    taken_ms: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        channels = {}
        for one in contenders:
            address = await one.start()
            stack.push_async_callback(one.end, address)
            channels[one.name] = await stack.enter_async_context(Channel.open(address, protocol))
        bare = await stack.enter_async_context(BareKernel.start())
        for _ in range(ROUNDS):
            taken_ms[BARE] += [bare.trip_s() * 1e3 for _ in range(TRIPS)]
            for name, channel in channels.items():
                for _ in range(TRIPS):
                    taken_ms[name].append(await channel.trip_s() * 1e3)
    return {name: statistics.median(values) for name, values in taken_ms.items()}


async def _rates(contenders: Sequence[Contender], count: int) -> dict[str, Values]:
    """Return how much output a client that reads gets in a second."""
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    writes = VOLUME_MB * 1_000_000 // 65536
    code, displays = WRITES.format(count=writes), SHOWS.format(count=DISPLAYS)
    megabytes, messages = "50 MB in flushed writes of 64 KB [MB/s]", "10,000 small displays [1/s]"
    async with AsyncExitStack() as stack:
        channels = {}
        for one in contenders:
            address = await one.start()
            stack.push_async_callback(one.end, address)
            channels[one.name] = await stack.enter_async_context(Channel.open(address))
        for _ in range(count):
            for name, channel in channels.items():
                begin = time.perf_counter()
                came = await channel.until_done(await channel.execute(code))
                _tell_loss(f"{name}, {writes} writes", came.size_bytes, writes * 65536)
                taken[megabytes][name].append(came.size_bytes / 1e6 / (came.last - begin))
                begin = time.perf_counter()
                came = await channel.until_done(await channel.execute(displays))
                _tell_loss(f"{name}, displays", came.frames, DISPLAYS)
                taken[messages][name].append(came.frames / (came.last - begin))
    return {label: _medians(values) for label, values in taken.items()}


def _tell_loss(what: str, came: int, written: int) -> None:
    if came < written:
        say(f"  {what}: only {came} of {written} arrived")


async def _strain(one: Contender) -> Strain:
    """Let a client read 2 GB slowly for a while, then interrupt the cell and read on."""
    address = await one.start()
    async with Channel.open(address) as channel:
        before_mb = peak_mb = one.rss_mb()
        msg_id = await channel.execute(FLOOD)
        until = time.monotonic() + SLOW_S
        while time.monotonic() < until:
            await channel.frame()
            peak_mb = max(peak_mb, one.rss_mb())  # takes as long as a slow client may
        begin = time.perf_counter()
        await one.interrupt(address)
        await channel.until_done(msg_id, [REPLY])  # stock may have lost the status
        interrupt_s = time.perf_counter() - begin
    await one.end(address)
    return Strain(peak_mb - before_mb, interrupt_s)


def _medians(values: Mapping[str, Sequence[float]]) -> Values:
    return {name: statistics.median(of_one) for name, of_one in values.items()}


def _print(label: str, values: Values, base: str) -> None:
    say(f"\n{label}")
    for name, value in values.items():
        say(f"  {name:10}{value:11.2f}{value / values[base]:11.2f} x {base}")


if __name__ == "__main__":
    asyncio.run(main())
