"""How long a kernel takes to start, beside a stock local one: ``python -m tests.benchmarks.start``.

A stock Jupyter Server, one of ours for each runtime, and one that is the manager of a cluster
run at the same time and take turns, so that a busy machine disturbs all alike.  The last table
holds the project's own bars.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

from tests.benchmarks import relay
from tests.benchmarks.contenders import (
    CLUSTER,
    STOCK,
    WITHIN_S,
    Contender,
    Start,
    cluster_contender,
    contender,
)
from tests.engine import PrivateEngine

RESOURCES = ("kernels", "sessions")
AT_ONCE = 10
MAX_ADDED_S = {"process": 0.2, "docker": 0.4, CLUSTER: 0.3}
MAX_RELAY_RATIO = 1.1
MAX_AT_ONCE_RATIO = 2.0
OUTPUTS = ("64 KB writes, each flushed", "1 MB displays")
OUTPUT_TURNS = 3
LOST_AFTER_S = 10.0  # without a message while output is awaited

Starts = dict[str, dict[str, list[Start]]]  # by resource, then by contender
Values = dict[str, float]  # by contender


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise and what was measured of it."""

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit


async def main() -> None:
    arguments = _parse(sys.argv[1:])
    runtimes = arguments.runtimes.split(",")
    load_before = os.getloadavg()
    async with _contenders(runtimes) as contenders:
        starts = await _starts(contenders, arguments.n)
        at_once = await _at_once(contenders, arguments.repeat)
        channels = await _channels(contenders, arguments.repeat)
    bars = _bars(runtimes, starts, at_once, channels)
    _print_starts(starts)
    _print_values(f"{AT_ONCE} kernels at once, until the last one answered [s]", _medians(at_once))
    for label, values in channels.items():
        _print_values(label, values)
    _print_bars(bars)
    loads = {"load before": load_before, "load after": os.getloadavg()}
    for label, load in loads.items():
        relay.say(f"{label}: {' '.join(f'{value:.2f}' for value in load)}")
    if arguments.json is not None:
        result = {
            "starts": {
                r: {n: [asdict(s) for s in v] for n, v in t.items()} for r, t in starts.items()
            },
            "at_once": at_once,
            "channels": channels,
            "bars": [{**asdict(bar), "holds": bar.holds} for bar in bars],
            **loads,
        }
        arguments.json.write_text(json.dumps(result, indent=1))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtimes", default="process,docker,cluster", help="ours, by comma")
    parser.add_argument("-n", type=int, default=20, help="starts of each kind")
    parser.add_argument("--repeat", type=int, default=3, help="times for all the rest")
    parser.add_argument("--json", type=Path, help="write every figure to this file too")
    return parser.parse_args(arguments)


@asynccontextmanager
async def _contenders(runtimes: Sequence[str]) -> AsyncIterator[list[Contender]]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Mapping[str, object]] = {STOCK: {}}
        for runtime in runtimes:
            if runtime != CLUSTER:
                settings[runtime] = {"runtime": runtime}
        if "docker" in runtimes:
            engine = PrivateEngine()
            stack.callback(engine.stop)
            await asyncio.to_thread(engine.start)
            await asyncio.to_thread(engine.ensure_images, ["python"])
            settings["docker"] = {"runtime": "docker", "docker_url": engine.url}
        contenders = [
            await stack.enter_async_context(contender(name, traits))
            for name, traits in settings.items()
        ]
        if CLUSTER in runtimes:
            contenders.append(await stack.enter_async_context(cluster_contender()))
        yield contenders


async def _starts(contenders: Sequence[Contender], count: int) -> Starts:
    """Measure ``count`` starts of each contender in turns, after one that does not count."""
    taken: Starts = {resource: defaultdict(list) for resource in RESOURCES}
    for turn in range(count + 1):
        _show_progress(f"start {turn} of {count}")
        for resource in RESOURCES:
            for one in contenders:
                kernel, start = await one.start(resource)
                await one.end(kernel)
                if turn > 0:
                    taken[resource][one.name].append(start)
    return taken


async def _at_once(contenders: Sequence[Contender], count: int) -> dict[str, list[float]]:
    taken_s: dict[str, list[float]] = defaultdict(list)
    for turn in range(1, count + 1):
        _show_progress(f"{AT_ONCE} at once, {turn} of {count}")
        for one in contenders:
            taken_s[one.name].append(await one.start_many(AT_ONCE))
    return taken_s


async def _channels(contenders: Sequence[Contender], count: int) -> dict[str, Values]:
    """Measure one kernel of each contender as a client that goes straight to it.

    Each may use the whole machine, and is asked for with more than it has: a quota that is
    just used up throttles a flood of output, and that is no cost of the relay.
    """
    cpus = 2 * (os.cpu_count() or 1)
    kernels = [(one, (await one.start("kernels", cpus=cpus))[0]) for one in contenders]
    infos = {one.name: one.connection(kernel) for one, kernel in kernels}
    for _, kernel in kernels:  # or the server takes part, as one more reader of all output
        kernel.socket.close()
    try:
        return await asyncio.to_thread(_measure_channels, infos, count)
    finally:
        for one, kernel in kernels:
            await one.end(kernel)


def _measure_channels(infos: Mapping[str, relay.Info], count: int) -> dict[str, Values]:
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        clients = {n: stack.enter_context(relay.client(info)) for n, info in infos.items()}
        for turn in range(1, count + 1):
            _show_progress(f"channels, {turn} of {count}")
            for name, trip_ms in relay.trips(clients).items():
                taken["execute round trip [ms]"][name].append(trip_ms)
            for label in OUTPUTS * OUTPUT_TURNS:
                for name, client in clients.items():
                    rate = _output_rate(name, client, relay.OUTPUTS[label])
                    taken[f"{label} [MB/s]"][name].append(rate)
    return {label: _medians(values) for label, values in taken.items()}


def _output_rate(name: str, client: BlockingKernelClient, code: str) -> float:
    """Return the MB/s until the last output came, which need not be all of it.

    On a busy machine a stock kernel loses output to a client that falls behind, and with it
    perhaps the message that says it is done.
    """
    size, begin = 0, time.perf_counter()
    last = begin
    msg_id = client.execute(code)
    with contextlib.suppress(Empty):
        while not _says_idle(message := client.get_iopub_msg(timeout=LOST_AFTER_S), msg_id):
            if (length := _output_length(message)) > 0:
                size, last = size + length, time.perf_counter()
    client.get_shell_msg(timeout=WITHIN_S)
    if size < relay.VOLUME_MB * 0.99e6:
        relay.say(f"  {name}: only {size / 1e6:.0f} of {relay.VOLUME_MB} MB arrived")
    return size / 1e6 / (last - begin)


def _says_idle(message: Mapping[str, Any], msg_id: str) -> bool:
    idle = message["content"].get("execution_state") == "idle"
    return bool(idle and message["parent_header"].get("msg_id") == msg_id)


def _output_length(message: Mapping[str, Any]) -> int:
    content = message["content"]
    data = content.get("data") or {}
    return len(content.get("text") or data.get("text/plain") or "")


def _bars(
    runtimes: Sequence[str],
    starts: Starts,
    at_once: Mapping[str, list[float]],
    channels: Mapping[str, Values],
) -> list[Bar]:
    bars = []
    for runtime in runtimes:
        for resource, taken in starts.items():
            added_s = _median(taken[runtime]) - _median(taken[STOCK])
            what = f"{runtime}: first reply after POST /api/{resource}, beyond stock"
            bars.append(Bar(what, added_s, MAX_ADDED_S[runtime], "s"))
        ratio = statistics.median(at_once[runtime]) / statistics.median(at_once[STOCK])
        bars.append(Bar(f"{runtime}: {AT_ONCE} at once", ratio, MAX_AT_ONCE_RATIO, "x"))
        for label, values in channels.items():
            smaller_is_better = label.endswith("[ms]")
            ours, stock = values[runtime], values[STOCK]
            ratio = ours / stock if smaller_is_better else stock / ours
            bars.append(Bar(f"{runtime}: {label}, time taken", ratio, MAX_RELAY_RATIO, "x"))
    return bars


def _print_starts(starts: Starts) -> None:
    parts: dict[str, Callable[[Start], float]] = {
        "POST": lambda start: start.post_s,
        "websocket": lambda start: start.open_s,
        "execute": lambda start: start.execute_s,
    }
    for resource, taken in starts.items():
        relay.say(f"\nPOST /api/{resource} to the first execute_reply [s]")
        head = "".join(f"{title:>11}" for title in ("median", "p95", "x stock", *parts))
        relay.say(f"  {'':10}{head}")
        stock_s = _median(taken[STOCK])
        for name, values in taken.items():
            middle_s = _median(values)
            cells = [middle_s, _p95([start.total_s for start in values]), middle_s / stock_s]
            cells += [statistics.median(map(part, values)) for part in parts.values()]
            relay.say(f"  {name:10}" + "".join(f"{cell:11.3f}" for cell in cells))


def _print_values(label: str, values: Values) -> None:
    relay.say(f"\n{label}")
    for name, value in values.items():
        relay.say(f"  {name:10}{value:11.2f}{value / values[STOCK]:11.2f} x stock")


def _print_bars(bars: Sequence[Bar]) -> None:
    relay.say("")
    for bar in bars:
        verdict = "holds" if bar.holds else "MISSED"
        relay.say(f"  {bar.what:64}{bar.measured:8.3f} <= {bar.limit:.2f} {bar.unit:3}{verdict}")
    relay.say("")


def _median(starts: Sequence[Start]) -> float:
    return statistics.median(start.total_s for start in starts)


def _medians(values: Mapping[str, Sequence[float]]) -> Values:
    return {name: statistics.median(of_one) for name, of_one in values.items()}


def _p95(values: Sequence[float]) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=20, method="inclusive")[18]


def _show_progress(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line:40}")


if __name__ == "__main__":
    asyncio.run(main())
