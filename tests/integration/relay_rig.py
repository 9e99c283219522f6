"""A relay, a kernel program and stock clients, for tests of the relay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_core.utils import ensure_event_loop

from backendai_jupyter.agent import kernel_output
from backendai_jupyter.agent.relay.client import Endpoint, RelayClient
from backendai_jupyter.agent.relay.layout import ipc_connection, listens
from backendai_jupyter.agent.relay.probe import kernel_info
from backendai_jupyter.domain.wire import Connection
from tests.helpers import eventually

KEY = "the-key-of-this-kernel"
TIMEOUT_S = 30.0
JOURNAL_BYTES = 64 << 20
KERNELSPEC = Path(__file__).parents[2] / "kernelspecs" / "python" / "kernel.json"
KEEP_ALL = str(json.loads(KERNELSPEC.read_text())["argv"][-1]).replace(  # see decision 016
    "{kernel_output}", str(Path(kernel_output.__file__))
)

T = TypeVar("T")
Message = dict[str, Any]


class KernelProgram:
    """A real ipykernel on ipc sockets, started at once."""

    def __init__(self, prefix: str, *arguments: str) -> None:
        file = Path(f"{prefix}.json")
        file.write_text(json.dumps(ipc_connection(prefix, KEY)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(file), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Rig:
    """One kernel behind a relay of its own; ``program`` may be replaced by a test."""

    path: Path
    journal: Path
    journal_bytes: int
    relay: RelayClient
    kernel_id: str
    prefix: str
    endpoint: Endpoint
    program: KernelProgram | None = None

    @property
    def connection(self) -> Connection:
        return self.endpoint.connection(KEY)

    async def start(self, *arguments: str) -> None:
        """Start the kernel program and wait until it answers."""
        self.program = KernelProgram(self.prefix, *arguments)
        await kernel_info(self.connection, timeout_s=TIMEOUT_S)

    async def open_again(self) -> Endpoint:
        """Open the kernel, as an agent does that has its former endpoint."""
        return await open_kernel(
            self.relay,
            self.path,
            prefix=self.prefix,
            journal=self.journal,
            journal_bytes=self.journal_bytes,
            endpoint=self.endpoint,
        )

    async def replace_relay(self, meanwhile: Callable[[], object] = bool) -> None:
        """Kill the relay and start another on the same endpoint."""
        os.kill(self.relay.pid, signal.SIGKILL)
        await self.find_relay_lost()
        meanwhile()
        await self.relay.open()
        assert await self.open_again() == self.endpoint

    async def find_relay_lost(self) -> None:
        await eventually(lambda: not listens(self.path / "control"))

    async def restart(self) -> None:
        self.stop()
        await self.start()

    def stop(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program = None

    async def with_client(self, scenario: Callable[[BlockingKernelClient], T]) -> T:
        async with stock_client(self.connection) as client:
            return await client.do(scenario)


class Client:
    """A stock blocking client in a thread of its own, for jupyter_client leaves its loop open."""

    def __init__(self) -> None:
        self._client = BlockingKernelClient()
        self._thread = ThreadPoolExecutor(1)

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Return ``work(client, *args)``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._client, *args)

    async def close(self) -> None:
        await self.do(_end)
        self._thread.shutdown()


async def open_kernel(
    relay: RelayClient,
    path: Path,
    kernel_id: str = "k1",
    *,
    prefix: str = "",
    key: str = KEY,
    journal: Path | None = None,
    journal_bytes: int = JOURNAL_BYTES,
    endpoint: Endpoint | None = None,
) -> Endpoint:
    """Open a kernel whose sockets and journal are in ``path`` unless it is said where."""
    return await relay.open_kernel(
        kernel_id,
        prefix or f"{path}/k",
        key,
        journal=journal or path / "journal",
        journal_bytes=journal_bytes,
        endpoint=endpoint,
    )


@asynccontextmanager
async def rig(
    path: Path,
    *,
    started: bool = True,
    journal: Path | None = None,
    journal_bytes: int = JOURNAL_BYTES,
) -> AsyncIterator[Rig]:
    relay = RelayClient(path / "control")
    await relay.open()
    journal = journal or path / "journal"
    endpoint = await open_kernel(relay, path, journal=journal, journal_bytes=journal_bytes)
    made = Rig(path, journal, journal_bytes, relay, "k1", f"{path}/k", endpoint)
    try:
        if started:
            await made.start()
        yield made
    finally:
        made.stop()
        await relay.close(stop=True)


@asynccontextmanager
async def stock_client(connection: Connection) -> AsyncIterator[Client]:
    client = Client()
    try:
        await client.do(_begin, connection)
        yield client
    finally:
        await client.close()


def run(client: BlockingKernelClient, code: str) -> str:
    """Execute ``code`` and return what it wrote to stdout."""
    written: list[str] = []

    def hook(message: Message) -> None:
        if message["msg_type"] == "stream":
            written.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=TIMEOUT_S)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(written)


def iopub_until(client: BlockingKernelClient, wanted: Callable[[Message], bool]) -> list[Message]:
    """Return the iopub messages up to and with the one that is wanted."""
    seen: list[Message] = []
    while not (seen and wanted(seen[-1])):
        seen.append(client.get_iopub_msg(timeout=TIMEOUT_S))
    return seen


def is_idle(msg_id: str) -> Callable[[Message], bool]:
    """Return a test for the message that ends the work on request ``msg_id``."""
    return lambda message: (
        message["parent_header"].get("msg_id") == msg_id
        and message["content"].get("execution_state") == "idle"
    )


def _begin(client: BlockingKernelClient, connection: Connection) -> None:
    info: Any = connection.model_dump() | {"key": connection.key.encode()}
    client.load_connection_info(info)
    client.start_channels()
    client.wait_for_ready(timeout=TIMEOUT_S)


def _end(client: BlockingKernelClient) -> None:
    client.stop_channels()
    ensure_event_loop().close()
