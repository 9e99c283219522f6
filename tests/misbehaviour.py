"""Seams that misbehave as real ones have done, each with a name."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.protocols import Change
from backendai_jupyter.domain.wire import Connection, Image
from backendai_jupyter.errors import BackendError, RelayFailed
from tests.fakes import RelayInMemory, RuntimeInMemory


class ClusterStoreWhoseWatchesAreSilent(MemoryClusterStore):
    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Change]]]:
        yield _no_changes()


class LiveStoreThatLosesEveryHint(MemoryLiveStore):
    async def publish(self, channel: str, message: str) -> None:
        """Nobody hears of it."""


class LiveStoreWithASlowReader(LiveStoreThatLosesEveryHint):
    """Once ``holds`` is set, who reads the reports next gets them only when ``may_go_on`` is.

    ``listed`` counts the readings of reports, that one included.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self.holds = False
        self.may_go_on = asyncio.Event()
        self.listed = 0

    async def list(self, prefix: str) -> dict[str, str]:
        found = await super().list(prefix)
        if prefix == keys.REPORTS:
            self.listed += 1
            if self.holds:
                self.holds = False
                await self.may_go_on.wait()
        return found


class LiveStoreOfAnotherVersion(MemoryLiveStore):
    """Agents report over it as ``changes`` has it, as those of another version would."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, object] = {}

    async def put(self, key: str, value: str, *, ttl_s: float) -> None:
        if key.startswith(keys.REPORTS) and self.changes:
            value = json.dumps(json.loads(value) | self.changes)
        await super().put(key, value, ttl_s=ttl_s)


class RuntimeThatNeverHintsAnExit(RuntimeInMemory):
    async def exits(self) -> AsyncIterator[str]:
        async for kernel_id in _silence():
            yield kernel_id


class RuntimeThatIsHeldWhileItStarts(RuntimeInMemory):
    """Its containers exist before ``start`` returns, which it does once ``may_go_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = asyncio.Event()
        self.listed = 0

    async def start(self, spec: ContainerSpec) -> ContainerState:
        state = await super().start(spec)
        await self.may_go_on.wait()
        return state

    async def list(self) -> list[ContainerState]:
        self.listed += 1
        return await super().list()


class RuntimeThatHangsWhenOneKernelIsStopped(RuntimeInMemory):
    """``hangs_at`` is that kernel; the others are stopped as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs_at = ""
        self.may_go_on = asyncio.Event()

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        if kernel_id == self.hangs_at and kernel_id in self.containers:
            await self.may_go_on.wait()
        await super().stop(kernel_id, grace_s=grace_s)


class RuntimeWithoutRoom(RuntimeInMemory):
    """Its disk is full until ``room`` is made."""

    def __init__(self) -> None:
        super().__init__()
        self.room = False

    async def start(self, spec: ContainerSpec) -> ContainerState:
        if not self.room:
            raise OSError(28, "No space left on device", "/scratch")
        return await super().start(spec)


class RuntimeWhoseEngineEnds(RuntimeInMemory):
    """Its next starts fail with ``failures``; where that is a number, by its signal.

    The next listings of its images fail with ``silences``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BackendError | int] = []
        self.silences: list[BackendError] = []

    async def images(self) -> tuple[Image, ...]:
        if self.silences:
            raise self.silences.pop(0)
        return await super().images()

    async def start(self, spec: ContainerSpec) -> ContainerState:
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, BackendError):
            raise failure
        state = await super().start(spec)
        if failure is not None:
            self.die(spec.kernel_id, 128 + failure)
        return state

    async def ask(self, connection: Connection, *, timeout_s: float) -> dict[str, str]:
        """Answer as the program does, which is silent when it has ended."""
        if any(state.exit_code is not None for state in await self.list()):
            await asyncio.Event().wait()
        return {"status": "ok"}


class RelayWhosePortsAreTaken(RelayInMemory):
    """Once it was lost, it cannot open the endpoints of before, but others."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = False

    def lose(self) -> None:
        self.channels.clear()
        self._lost = True

    async def open_kernel(
        self,
        kernel_id: str,
        ipc_prefix: str,
        key: str,
        *,
        journal: Path,
        journal_bytes: int,
        endpoint: Endpoint | None = None,
    ) -> Endpoint:
        if self._lost and kernel_id not in self.channels:
            if endpoint is not None:
                raise RelayFailed(f"Port {endpoint.shell_port} is taken.")
            self.channels[kernel_id] = _OTHER
        return await super().open_kernel(
            kernel_id, ipc_prefix, key, journal=journal, journal_bytes=journal_bytes
        )


class ProbeThatWaits:
    """A kernel that answers once it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, connection: Connection, *, timeout_s: float) -> dict[str, str]:
        await self.may_answer.wait()
        return {"status": "ok"}


class ClockThatJumps:
    """The time of day of a machine whose clock is set while programs run."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def __call__(self) -> float:
        return time.time() + self._offset_s

    def jump(self, seconds: float) -> None:
        self._offset_s += seconds


_OTHER = Endpoint("127.0.0.1", 1, 2, 3, 4, 5, "public", "secret", "socket")


async def _no_changes() -> AsyncIterator[Sequence[Change]]:
    async for _ in _silence():
        yield ()


async def _silence() -> AsyncIterator[str]:
    await asyncio.Event().wait()
    yield "never"
