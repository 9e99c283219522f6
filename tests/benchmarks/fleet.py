"""What many kernels cost, and how fast a cluster fills: ``python -m tests.benchmarks.fleet``.

Their programs are light ones (``light_kernel.py``), real processes that speak Jupyter's protocol:
hundreds of ipykernels would measure this machine's memory.  All else is the real path: agent,
relay, journal, manager and websocket, over PostgreSQL, Redis and etcd.  A stock Jupyter Server
runs the same kernels before; the last table holds the project's own bars.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks import lag
from tests.benchmarks.channel import REPLY, Address, Channel
from tests.benchmarks.contenders import CLUSTER, STOCK
from tests.benchmarks.light_kernel import light_spec
from tests.benchmarks.relay import say
from tests.benchmarks.start import Bar
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

LIGHT = "light"
ROOT = Path(__file__).parents[2]
METER = (f"--ServerApp.jpserver_extensions={lag.__name__}=True",)
FINDS_METER = f"import sys; sys.path.append({str(ROOT)!r})\n"
WITHIN_S = 120.0
AT_ONCE = 8  # starts
LINE = b'"stream"'
PARTS = {"agent": "backendai_jupyter.cli.daemon", "relay": "backendai_jupyter.agent.relay"}
MAX_MEMORY_RATIO = 1.2  # of an idle kernel in the manager
MAX_IDLE_CPU = 10.0  # percent of a core, manager
MAX_LAG_RATIO = 2.0


@dataclass
class Listener:
    """A client that reads all that comes, and counts it."""

    channel: Channel
    lines: int = 0
    replied: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        while True:
            frame = await self.channel.frame()
            self.lines += LINE in frame
            if REPLY in frame:
                self.replied.set()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a part of a contender has used so far; all zero where it has no such part."""

    memory_mb: float = 0.0
    cpu_s: float = 0.0
    threads: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, and the directory of all processes that belong to it."""

    name: str
    server: RunningServer
    root: Path

    async def start(self) -> str:
        answer = await self.server.post("api/kernels", json={"name": LIGHT}, timeout=WITHIN_S)
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def end(self, kernel_id: str) -> None:
        await self.server.delete(f"api/kernels/{kernel_id}", timeout=WITHIN_S)

    async def lag_ms(self) -> list[float]:
        answer = await self.server.get(lag.WHERE)
        answer.raise_for_status()
        return [late_s * 1e3 for late_s in answer.json()["late_s"]]

    def usage(self) -> dict[str, Usage]:
        used = dict.fromkeys(("manager", *PARTS), Usage())
        used["manager"] = _usage(psutil.Process(self.server.pid))
        for process in psutil.process_iter(["cmdline"]):
            command = " ".join(process.info["cmdline"] or ())
            for part, module in PARTS.items():
                if module in command and str(self.root) in command:
                    used[part] = _usage(process)
        return used


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was measured of one contender with many kernels."""

    started_per_s: float
    memory_mb: dict[str, float]  # of each part, for one kernel
    threads: dict[str, float]
    files: dict[str, float]
    idle_cpu: dict[str, float]  # of each part, percent of a core
    busy_cpu: dict[str, float]
    idle_lag_ms: list[float]
    busy_lag_ms: list[float]
    lines: int


async def main() -> None:
    arguments = _parse(sys.argv[1:])
    load_before = os.getloadavg()
    say(f"{arguments.kernels} simulated kernels: processes that only speak the protocol")
    fleets, bars = {}, []
    async with _stock() as stock:
        fleets[STOCK] = await _fleet(stock, arguments)
    async with _cluster(cpus=arguments.kernels + 1) as ours:
        fleets[CLUSTER] = await _fleet(ours, arguments)
    bars += _fleet_bars(fleets)
    _print_fleets(fleets, arguments)
    async with _cluster(cpus=arguments.fill, agents=2) as ours:
        await _fill(ours, 2 * arguments.fill)
    say("")
    for bar in bars:
        verdict = "holds" if bar.holds else "MISSED"
        say(f"  {bar.what:64}{bar.measured:8.3f} <= {bar.limit:.2f} {bar.unit:3}{verdict}")
    say(f"\nload before {load_before}, after {os.getloadavg()}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=200, help="of one manager")
    parser.add_argument("--streams", type=int, default=20, help="kernels that print")
    parser.add_argument("--rate", type=int, default=20, help="lines per second of each of them")
    parser.add_argument("--seconds", type=int, default=20, help="for each measurement")
    parser.add_argument("--fill", type=int, default=24, help="kernels that fit on an agent")
    return parser.parse_args(arguments)


@asynccontextmanager
async def _stock() -> AsyncIterator[Contender]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    try:
        async with RunningServer(root, enable=False, args=METER, config=FINDS_METER) as server:
            _offer(server, ours=False)
            yield Contender(STOCK, server, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def _cluster(*, cpus: int, agents: int = 1) -> AsyncIterator[Contender]:
    """Each agent has room for ``cpus`` kernels."""
    overcommit = cpus / len(os.sched_getaffinity(0))
    async with Cluster() as cluster:
        for _ in range(agents):
            await cluster.add_agent(cpu_overcommit=overcommit)
        server = await cluster.add_server(args=METER, config=FINDS_METER)
        _offer(server, ours=True)
        yield Contender(CLUSTER, server, cluster.root)


def _offer(server: RunningServer, *, ours: bool) -> None:
    directory = server.root / "data" / "kernels" / LIGHT
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(json.dumps(light_spec(ours=ours)))


async def _fleet(one: Contender, arguments: argparse.Namespace) -> Fleet:
    """Start all kernels, let them be, and then let some print."""
    first = await one.start()  # what is loaded at the first one is no cost of many
    before = one.usage()
    async with AsyncExitStack() as stack:
        kernels, started_per_s = await _start(one, arguments.kernels)
        listeners = await _listen(one, kernels, stack)
        tasks = [asyncio.ensure_future(listener.listen()) for listener in listeners]
        for task in tasks:
            stack.callback(task.cancel)
        await _pass(tasks, arguments.seconds / 2)
        await one.lag_ms()
        idle = one.usage()
        await _pass(tasks, arguments.seconds)
        idle_lag_ms, after_idle = await one.lag_ms(), one.usage()
        printing = listeners[: arguments.streams]
        for listener in printing:
            listener.replied.clear()
            await listener.channel.execute(f"stream {arguments.rate} {arguments.seconds}")
        await _pass(tasks, arguments.seconds)
        busy_lag_ms, busy = await one.lag_ms(), one.usage()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*(listener.replied.wait() for listener in printing))
    await _end(one, [first, *kernels])
    return Fleet(
        started_per_s,
        _each(before, idle, "memory_mb", len(kernels)),
        _each(before, idle, "threads", len(kernels)),
        _each(before, idle, "files", len(kernels)),
        _each(idle, after_idle, "cpu_s", arguments.seconds / 100),
        _each(after_idle, busy, "cpu_s", arguments.seconds / 100),
        idle_lag_ms,
        busy_lag_ms,
        sum(listener.lines for listener in printing),
    )


async def _start(one: Contender, count: int) -> tuple[list[str], float]:
    """Return the kernels, and how many were started in a second."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def start() -> str:
        async with turns:
            return await one.start()

    began = time.perf_counter()
    kernels = await asyncio.gather(*(start() for _ in range(count)))
    return kernels, count / (time.perf_counter() - began)


async def _listen(one: Contender, kernels: Sequence[str], stack: AsyncExitStack) -> list[Listener]:
    addresses = [Address(one.server.url, one.server.token, kernel_id) for kernel_id in kernels]
    return [
        Listener(await stack.enter_async_context(Channel.open(address))) for address in addresses
    ]


async def _pass(tasks: Sequence[asyncio.Future[None]], seconds: float) -> None:
    """Let time pass; whoever listens does so all the while."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _end(one: Contender, kernels: Sequence[str]) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def end(kernel_id: str) -> None:
        async with turns:
            await one.end(kernel_id)

    await asyncio.gather(*(end(kernel_id) for kernel_id in kernels))


async def _fill(one: Contender, room: int) -> None:
    """Start as many kernels as there is room for, one more, and end one of the others."""
    kernels, started_per_s = await _start(one, room)
    sessions = (await one.server.get("backendai/v1/sessions")).json()
    placed = [session["kernels"][0]["agent_id"] for session in sessions]
    shares = ", ".join(f"{name} {placed.count(name)}" for name in sorted(set(placed)))
    say(f"\n2 agents with room for {room} kernels, {AT_ONCE} requests at a time")
    say(f"  started per second {started_per_s:11.2f}   ({shares})")
    extra = asyncio.ensure_future(one.start())
    say(f"  one more is told            {await eventually(lambda: _told(one), within_s=60)}")
    await one.end(kernels.pop())
    freed = time.perf_counter()
    kernels.append(await extra)
    say(f"  and has started, after an end of another [s]{time.perf_counter() - freed:9.2f}")
    await _end(one, kernels)


async def _told(one: Contender) -> str:
    """Return what whoever waits for room is told."""
    answer = await one.server.get("backendai/v1/sessions", params={"status": "PENDING"})
    return "".join(session["status_reason"] for session in answer.json())


def _usage(process: psutil.Process) -> Usage:
    with suppress(psutil.NoSuchProcess), process.oneshot():
        times = process.cpu_times()
        return Usage(
            process.memory_info().rss / 1e6,
            times.user + times.system,
            process.num_threads(),
            process.num_fds(),
        )
    return Usage()


def _each(
    before: dict[str, Usage], after: dict[str, Usage], what: str, share: float
) -> dict[str, float]:
    return {
        part: (getattr(after[part], what) - getattr(before[part], what)) / share for part in after
    }


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _fleet_bars(fleets: dict[str, Fleet]) -> list[Bar]:
    ours, stock = fleets[CLUSTER], fleets[STOCK]
    memory = ours.memory_mb["manager"] / stock.memory_mb["manager"]
    late = _p99(ours.busy_lag_ms) / _p99(stock.busy_lag_ms)
    return [
        Bar("manager: memory of an idle kernel, x stock", memory, MAX_MEMORY_RATIO, "x"),
        Bar("manager: CPU while all are idle", ours.idle_cpu["manager"], MAX_IDLE_CPU, "%"),
        Bar("manager: p99 of the lag while some print, x stock", late, MAX_LAG_RATIO, "x"),
    ]


def _print_fleets(fleets: dict[str, Fleet], arguments: argparse.Namespace) -> None:
    asked = arguments.streams * arguments.rate * arguments.seconds
    say(f"\n{arguments.kernels} kernels, a websocket each; {arguments.streams} of them print "
        f"{arguments.rate} lines a second")  # fmt: skip
    say(f"  {'':44}" + "".join(f"{name:>12}" for name in fleets))

    def line(label: str, values: dict[str, float]) -> None:
        say(f"  {label:44}" + "".join(f"{value:12.2f}" for value in values.values()))

    line("started per second", {n: fleet.started_per_s for n, fleet in fleets.items()})
    for part in ("manager", *PARTS):
        for label, table in (
            ("memory for each [MB]", "memory_mb"),
            ("threads for each", "threads"),
            ("files for each", "files"),
            ("CPU, all idle [% of a core]", "idle_cpu"),
            ("CPU, some print [% of a core]", "busy_cpu"),
        ):
            values = {name: getattr(fleet, table)[part] for name, fleet in fleets.items()}
            line(f"{part}: {label}", values)
    for label, what in (("all idle", "idle_lag_ms"), ("some print", "busy_lag_ms")):
        late = {name: getattr(fleet, what) for name, fleet in fleets.items()}
        line(f"lag of the event loop, {label}: p50 [ms]", {
            name: statistics.median(values) for name, values in late.items()})  # fmt: skip
        line(f"lag of the event loop, {label}: p99 [ms]", {
            name: _p99(values) for name, values in late.items()})  # fmt: skip
    line(f"lines that came, of {asked}", {n: float(fleet.lines) for n, fleet in fleets.items()})


if __name__ == "__main__":
    asyncio.run(main())
