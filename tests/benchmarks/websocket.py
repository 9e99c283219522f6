"""What a browser gets from a kernel's websocket: ``python -m tests.benchmarks.websocket``.

A Jupyter Server as it comes, one whose limits of output are lifted, and one of ours for each
runtime run at the same time and take turns, so that a busy machine disturbs all alike.  Clients
leave TCP as they find it, as browsers do.  The last table holds the project's own bars.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.benchmarks.bare_kernel import BareKernel
from tests.benchmarks.relay import say
from tests.benchmarks.start import Bar
from tests.engine import PrivateEngine
from tests.server import RunningServer

STOCK, LIFTED, BARE = "stock", "lifted", "no server"
LIFT = (
    "--ZMQChannelsWebsocketConnection.limit_rate=False",
    "--ZMQChannelsWebsocketConnection.iopub_msg_rate_limit=0",
    "--ZMQChannelsWebsocketConnection.iopub_data_rate_limit=0",
)
REPLY, IDLE = b'"execute_reply"', b'"idle"'
V1, LEGACY = "v1.kernel.websocket.jupyter.org", ""
SMALL_BYTES = 16384  # a reply with its traceback is smaller, and a piece of a flood is not
WITHIN_S = 120.0
LOST_AFTER_S = 30.0  # without a frame while one is awaited
MAX_TRIP_RATIO = 0.15
MAX_DISTURBED_RATIO = 1.10
ROUNDS, TRIPS = 10, 10
DISTURBED_ROUNDS, DISTURBED_TRIPS, LONE_TRIPS = 8, 40, 3
PERSON_S = 0.3  # before a round trip that nothing came before
VOLUME_MB, DISPLAYS = 50, 10_000
SLOW_S = 20.0
WRITES = "part = 'x' * 65535\nfor _ in range({count}): print(part, flush=True)"
SHOWS = """
from IPython.display import display
for _ in range({count}): display({{"text/plain": "x"}}, raw=True)
"""
FLOOD = WRITES.format(count=2_000_000_000 // 65536)  # 2 GB
ENDLESS = "part = 'x' * 65535\nwhile True: print(part, flush=True)"

Values = dict[str, float]  # by contender


@dataclass(frozen=True, slots=True)
class Came:
    """What a client got, and when the last of it, by ``perf_counter``."""

    frames: int
    size_bytes: int
    last: float


class Channel:
    """One websocket, whose client spends as little time as it can on what it gets."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Address, protocol: str = V1) -> AsyncIterator[Channel]:
        request = HTTPRequest(
            f"{address.url.replace('http', 'ws', 1)}api/kernels/{address.kernel_id}/channels"
            f"?session_id={uuid.uuid4().hex}",
            headers={"Authorization": f"token {address.token}"},
            request_timeout=WITHIN_S,
        )
        socket = await websocket_connect(request, subprotocols=[protocol] if protocol else None)
        channel = cls(socket)
        try:
            await channel.trip_s()  # the kernel is ready, and all that came before is read
            yield channel
        finally:
            socket.close()

    async def execute(self, code: str) -> bytes:
        """Ask for an execution and return its message id."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "",
                  "session": "benchmark", "version": "5.3", "date": ""}  # fmt: skip
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        if self._socket.selected_subprotocol == V1:
            parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
            await self._socket.write_message(serialize_msg_to_ws_v1(parts, "shell"), binary=True)
        else:
            message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {},
                       "content": content, "buffers": []}  # fmt: skip
            await self._socket.write_message(json.dumps(message))
        return header["msg_id"].encode()

    async def frame(self) -> bytes:
        """Return the next frame of either protocol."""
        frame = await self._socket.read_message()
        assert frame is not None, "the server closed the websocket"
        return frame.encode() if isinstance(frame, str) else frame

    async def until_done(self, msg_id: bytes, marks: Sequence[bytes] = (REPLY, IDLE)) -> Came:
        """Return what came up to the reply and the idle status, which stock may lose."""
        awaited = {*marks}
        count = size = 0
        last = time.perf_counter()
        while awaited:
            try:
                async with asyncio.timeout(LOST_AFTER_S):
                    frame = await self.frame()
            except TimeoutError:
                if REPLY in awaited:
                    raise
                break
            count, size, last = count + 1, size + len(frame), time.perf_counter()
            if len(frame) < SMALL_BYTES and msg_id in frame:
                awaited -= {mark for mark in awaited if mark in frame}
        return Came(count, size, last)

    async def trip_s(self) -> float:
        begin = time.perf_counter()
        await self.until_done(await self.execute("1"))
        return time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Address:
    """Where a kernel is, for any process."""

    url: str
    token: str
    kernel_id: str


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    server: RunningServer

    async def start(self) -> Address:
        """Start a kernel that may use the whole machine, as the stock one may."""
        body: dict[str, Any] = {"name": "python3"}
        if self.name not in (STOCK, LIFTED):
            # More than there is: a quota that is just used up throttles a flood.
            cpus = 2 * (os.cpu_count() or 1)
            body = {"name": "backendai-python", "backendai": {"resources": {"cpu": cpus}}}
        answer = await self.server.post("api/kernels", json=body, timeout=WITHIN_S)
        answer.raise_for_status()
        return Address(self.server.url, self.server.token, answer.json()["id"])

    async def interrupt(self, address: Address) -> None:
        answer = await self.server.post(f"api/kernels/{address.kernel_id}/interrupt")
        answer.raise_for_status()

    async def end(self, address: Address) -> None:
        await self.server.delete(f"api/kernels/{address.kernel_id}", timeout=WITHIN_S)

    def rss_mb(self) -> float:
        """Return the memory of the server, and of the relay where there is one."""
        mine = str(self.server.root)
        total = psutil.Process(self.server.pid).memory_info().rss
        for process in psutil.process_iter(["cmdline", "memory_info"]):
            command = " ".join(process.info["cmdline"] or ())
            if "backendai_jupyter.agent.relay" in command and mine in command:
                total += process.info["memory_info"].rss
        return float(total / 1e6)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What a flood does to another kernel's round trips."""

    ratio: float  # disturbed by quiet, of trips that follow each other
    lone_ms: float  # that a single one takes longer


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
        disturbed = {one.name: await _disturbed(one) for one in unlimited}
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


async def _disturbed(one: Contender) -> Disturbance:
    """Measure a kernel's round trips while another's output floods a client, and without that.

    Quiet rounds and disturbed ones take turns, so that a machine's slow minute is in both.
    """
    quiet, loud = await one.start(), await one.start()
    rounds: dict[str, list[float]] = defaultdict(list)
    spawn = multiprocessing.get_context("spawn")  # a client with a processor's time of its own
    with ProcessPoolExecutor(1, mp_context=spawn) as pool, spawn.Manager() as manager:
        async with Channel.open(quiet) as channel:
            for _ in range(DISTURBED_ROUNDS):
                begun, ended = manager.Event(), manager.Event()
                await _ask(channel, rounds, "quiet")
                flood = asyncio.wrap_future(pool.submit(_drink, loud, begun, ended))
                await asyncio.to_thread(begun.wait, WITHIN_S)
                await _ask(channel, rounds, "disturbed")
                ended.set()
                await flood
                await one.interrupt(loud)
                async with Channel.open(loud):
                    """The kernel answers again: its flood is over."""
    for address in (quiet, loud):
        await one.end(address)
    typical = {name: statistics.median(taken_s) for name, taken_s in rounds.items()}
    return Disturbance(
        typical["disturbed"] / typical["quiet"],
        (typical["disturbed, lone"] - typical["quiet, lone"]) * 1e3,
    )


async def _ask(channel: Channel, rounds: dict[str, list[float]], when: str) -> None:
    """Note single round trips, as a person makes them, and some that follow each other."""
    for _ in range(LONE_TRIPS):
        await asyncio.sleep(PERSON_S)
        rounds[f"{when}, lone"].append(await channel.trip_s())
    rounds[when] += [await channel.trip_s() for _ in range(DISTURBED_TRIPS)]


def _drink(address: Address, begun: Any, ended: Any) -> None:
    async def drink() -> None:
        async with Channel.open(address) as channel:
            await channel.execute(ENDLESS)
            for _ in range(200):
                await channel.frame()
            begun.set()
            while not ended.is_set():  # a call to another process
                for _ in range(200):
                    await channel.frame()

    asyncio.run(drink())


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
