"""How much slower a kernel is behind the relay: ``python -m tests.benchmarks.relay``.

One ipykernel of each kind runs at the same time and they take turns, so that a busy machine
disturbs all alike.  Kinds: direct over ipc, direct over TCP, direct over TCP with CurveZMQ
(by ipykernel itself), and through the relay (ipc, then TCP with CurveZMQ).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.localinterfaces import localhost

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.layout import CHANNELS, ipc_connection

KEY = "benchmark"
JOURNAL_BYTES = 256 << 20
ROUNDS, TRIPS = 10, 20
VOLUME_MB = 200
STREAM = f"""
part = "x" * 65535
for _ in range({VOLUME_MB * 1_000_000 // 65536}): print(part, flush=True)
"""
MERGED = STREAM.replace("True", "False")  # ipykernel makes one message of it, whatever its size
DISPLAY = f"""
from IPython.display import display
part = {{"text/plain": "x" * 1_000_000}}
for _ in range({VOLUME_MB}): display(part, raw=True)
"""
OUTPUTS = {
    "64 KB writes, each flushed": STREAM,
    "64 KB writes, merged by ipykernel": MERGED,
    "1 MB displays": DISPLAY,
}

Info = dict[str, Any]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bj-") as directory, ExitStack() as stack:
        path = Path(directory)
        infos = {
            "direct ipc": ipc_connection(f"{path}/d", KEY),
            "direct tcp": tcp(),
            "direct tcp+curve": tcp() | curve(),
            "relay": ipc_connection(f"{path}/r", KEY),
        }
        for name, info in infos.items():
            stack.enter_context(kernel(path / f"{name}.json", info))
        relay_pid, endpoint = stack.enter_context(relay(path, f"{path}/r"))
        clients = {
            name: stack.enter_context(client(endpoint if name == "relay" else info))
            for name, info in infos.items()
        }
        report("execute round trip", "ms", trips(clients), smaller_is_better=True)
        for label, code in OUTPUTS.items():
            before_s = cpu_s(relay_pid)
            report(label, "MB/s", volumes(clients, code), smaller_is_better=False)
            spent_s = cpu_s(relay_pid) - before_s
            gigabytes = 3 * VOLUME_MB / 1000
            say(f"  the relay's processor time: {spent_s / gigabytes:.2f} s for each GB")


def trips(clients: dict[str, BlockingKernelClient]) -> dict[str, float]:
    """Return the median time from request to reply and idle."""
    taken_ms: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(ROUNDS):
        for name, one in clients.items():
            for _ in range(TRIPS):
                begin = time.perf_counter()
                msg_id = one.execute("1")
                one.get_shell_msg(timeout=30)
                drain(one, msg_id)
                taken_ms[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(values) for name, values in taken_ms.items()}


def volumes(clients: dict[str, BlockingKernelClient], code: str) -> dict[str, float]:
    """Return the median rate at which output reaches the client; all of it must."""
    rates: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(3):
        for name, one in clients.items():
            begin = time.perf_counter()
            size = drain(one, one.execute(code))
            rates[name].append(size / 1e6 / (time.perf_counter() - begin))
            one.get_shell_msg(timeout=30)
            if size < VOLUME_MB * 0.99e6:
                say(f"  {name}: only {size / 1e6:.0f} of {VOLUME_MB} MB arrived")
    return {name: statistics.median(values) for name, values in rates.items()}


def drain(one: BlockingKernelClient, msg_id: str) -> int:
    """Read until ``msg_id`` is done; return how many characters of output came."""
    size = 0
    while True:
        message = one.get_iopub_msg(timeout=60)
        content = message["content"]
        if message["msg_type"] == "stream":
            size += len(content["text"])
        elif message["msg_type"] == "display_data":
            size += len(content["data"]["text/plain"])
        elif (
            content.get("execution_state") == "idle"
            and message["parent_header"].get("msg_id") == msg_id
        ):
            return size


def report(label: str, unit: str, values: dict[str, float], *, smaller_is_better: bool) -> None:
    say(label)
    relayed = values["relay"]
    for name, value in values.items():
        ratio = relayed / value if smaller_is_better else value / relayed
        say(f"  {name:18} {value:8.2f} {unit:5} relay takes {ratio:.2f} times as long")


def tcp() -> Info:
    sockets: list[zmq.Socket[bytes]] = [zmq.Context.instance().socket(zmq.ROUTER) for _ in CHANNELS]
    ports = [one.bind_to_random_port(f"tcp://{localhost()}") for one in sockets]
    for one in sockets:
        one.close(linger=0)
    info: Info = {f"{name}_port": port for name, port in zip(CHANNELS, ports, strict=True)}
    return (
        info
        | {"transport": "tcp", "ip": localhost(), "key": KEY}
        | {"signature_scheme": "hmac-sha256"}
    )


def curve() -> Info:
    public_key, secret_key = zmq.curve_keypair()
    return {"curve_publickey": public_key.decode(), "curve_secretkey": secret_key.decode()}


@contextmanager
def kernel(file: Path, info: Info) -> Iterator[None]:
    file.write_text(json.dumps(info))
    with subprocess.Popen(
        [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def relay(path: Path, prefix: str) -> Iterator[tuple[int, Info]]:
    async def begin() -> tuple[int, Info]:
        control = RelayClient(path / "control")
        await control.open()
        endpoint = await control.open_kernel(
            "k1", prefix, KEY, journal=path / "journal", journal_bytes=JOURNAL_BYTES
        )
        await control.close(stop=False)
        return control.pid, endpoint.connection(KEY).model_dump()

    async def end() -> None:
        control = RelayClient(path / "control")
        await control.open()
        await control.close(stop=True)

    try:
        yield asyncio.run(begin())
    finally:
        asyncio.run(end())


@contextmanager
def client(info: Info) -> Iterator[BlockingKernelClient]:
    made = BlockingKernelClient()
    loadable: Any = info | {"key": info["key"].encode()}
    made.load_connection_info(loadable)
    made.start_channels(hb=False)  # it would call a kernel that is still starting dead
    try:
        made.wait_for_ready(timeout=60)
        yield made
    finally:
        made.stop_channels()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
