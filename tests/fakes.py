"""Honest small implementations of the seams, and named ones that misbehave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from backendai_jupyter.agent.registry import Description
from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.agent.runtime.base import (
    HOME,
    RUN_DIR,
    ContainerSpec,
    ContainerState,
    Inside,
    Origin,
)
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryLiveStore
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.wire import (
    ClusterMode,
    Connection,
    Image,
    Membership,
    PullProgress,
    Swarm,
)
from backendai_jupyter.errors import RuntimeFailed, TimedOut

PYTHON = Image(name="python", reference="memory/python", runtime="memory")


class NetworksInMemory:
    """Networks that are entries of sets; with a ``swarm_`` overlays, too."""

    def __init__(self) -> None:
        self.bridges: set[str] = set()
        self.made_overlays: set[str] = set()
        self.swarm_: Swarm | None = None
        self.attached: set[str] = set()  # sessions whose overlay somebody is on

    def modes(self) -> tuple[ClusterMode, ...]:
        return tuple(ClusterMode) if self.swarm_ else (ClusterMode.SINGLE_NODE,)

    async def open(self, session_id: str, membership: Membership) -> None:
        if membership.mode is ClusterMode.SINGLE_NODE:
            self.bridges.add(session_id)

    async def close(self, session_id: str) -> None:
        self.bridges.discard(session_id)

    async def sessions(self) -> set[str]:
        return set(self.bridges)

    async def swarm(self) -> Swarm | None:
        return self.swarm_

    async def make_overlay(self, session_id: str) -> None:
        self.made_overlays.add(session_id)

    async def remove_overlay(self, session_id: str) -> bool:
        if session_id in self.attached:
            return False
        self.made_overlays.discard(session_id)
        return True

    async def overlays(self) -> set[str]:
        return set(self.made_overlays)


class RuntimeInMemory:
    """A ``KernelRuntime`` whose containers are entries of a dict."""

    name = "memory"

    def __init__(self) -> None:
        self.containers: dict[str, ContainerState] = {}
        self.specs: dict[str, ContainerSpec] = {}
        self.signals: list[tuple[str, int]] = []
        self.starts = 0
        self.networks = NetworksInMemory()
        self._exits: asyncio.Queue[str] = asyncio.Queue()
        self._image_changes: asyncio.Queue[None] = asyncio.Queue()
        self.here: tuple[Image, ...] = (PYTHON,)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def images(self) -> tuple[Image, ...]:
        return self.here

    async def image_changes(self) -> AsyncIterator[None]:
        while True:
            await self._image_changes.get()
            yield

    def have(self, *images: Image) -> None:
        """Let these be the images that are here, and say so."""
        self.here = images
        self._image_changes.put_nowait(None)

    def inside(self, spec_run_dir: Path, spec_home_dir: Path) -> Inside:
        return Inside(RUN_DIR, HOME)

    async def start(self, spec: ContainerSpec) -> ContainerState:
        existing = self.containers.get(spec.kernel_id)
        if existing is None or existing.generation != spec.generation:
            self.starts += 1
            self.specs[spec.kernel_id] = spec
            self.containers[spec.kernel_id] = ContainerState(
                spec.kernel_id,
                spec.generation,
                f"c{self.starts}",
                None,
                devices=spec.devices.record,
                session_id=spec.session_id,
            )
        return self.containers[spec.kernel_id]

    async def signal(self, kernel_id: str, signum: int) -> None:
        self.signals.append((kernel_id, signum))

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        self.containers.pop(kernel_id, None)

    async def list(self) -> list[ContainerState]:
        return list(self.containers.values())

    async def pid(self, kernel_id: str) -> int | None:
        return None

    async def origin(self, kernel_id: str) -> Origin | None:
        return None

    async def log_tail(self, kernel_id: str, *, max_bytes: int) -> str:
        return f"log of {kernel_id}"

    async def exits(self) -> AsyncIterator[str]:
        while True:
            yield await self._exits.get()

    def notes(self) -> tuple[str, ...]:
        return ()

    def die(self, kernel_id: str, exit_code: int, *, oom_killed: bool = False) -> None:
        """Let the program of a kernel end by itself."""
        state = self.containers[kernel_id]
        self.containers[kernel_id] = replace(state, exit_code=exit_code, oom_killed=oom_killed)
        self._exits.put_nowait(kernel_id)


class RuntimeWithDemandingImages(RuntimeInMemory):
    """One image wants 2 GiB; what another wants nobody can read."""

    async def images(self) -> tuple[Image, ...]:
        demanding = PYTHON.model_copy(update={"labels": {"ai.backend.resource.min.mem": "2g"}})
        labels = {"ai.backend.resource.min.cpu": "many"}
        broken = Image(name="broken", reference="memory/broken", runtime="memory", labels=labels)
        return (demanding, broken)


class RuntimeThatRefusesToStart(RuntimeInMemory):
    async def start(self, spec: ContainerSpec) -> ContainerState:
        raise RuntimeFailed("no space left on device")


class RuntimeWhoseProgramsDieAtOnce(RuntimeInMemory):
    async def start(self, spec: ContainerSpec) -> ContainerState:
        state = await super().start(spec)
        self.die(spec.kernel_id, 1)
        return state


class RuntimeThatStopsOnlyAtTheSecondTry(RuntimeInMemory):
    def __init__(self) -> None:
        super().__init__()
        self.refusals = 1

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        if self.refusals and kernel_id in self.containers:
            self.refusals -= 1
            raise RuntimeFailed("the engine is busy")
        await super().stop(kernel_id, grace_s=grace_s)


class LiveStoreOfAgentsWithNetworks(MemoryLiveStore):
    """Agents report over it as members of one swarm that can run all sessions of several kernels.

    ``networks`` are those that the agents have, by session: whether each is ready.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self.networks: dict[str, bool] = {}

    async def put(self, key: str, value: str, *, ttl_s: float) -> None:
        if key.startswith(keys.REPORTS):
            networks = [{"session_id": s, "ready": ready} for s, ready in self.networks.items()]
            told = {
                "cluster_modes": list(ClusterMode),
                "swarm": {"id": "w", "manages": True},
                "networks": networks,
            }
            value = json.dumps(json.loads(value) | told)
        await super().put(key, value, ttl_s=ttl_s)


class RelayInMemory:
    """Endpoints without sockets behind them."""

    def __init__(self) -> None:
        self.channels: dict[str, Endpoint] = {}
        self.opened = 0  # how often it was started
        self.notices: list[tuple[str, str]] = []

    async def open(self) -> None:
        self.opened += 1

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
        first = 40000 + 5 * len(self.channels)
        return self.channels.setdefault(kernel_id, _endpoint(first))

    async def close_kernel(self, kernel_id: str) -> None:
        self.channels.pop(kernel_id, None)

    async def kernels(self) -> list[str]:
        return list(self.channels)

    async def notify(self, kernel_id: str, text: str, *, dead: bool = False) -> None:
        self.notices.append((kernel_id, text))


def _endpoint(first_port: int) -> Endpoint:
    shell, iopub, stdin, control, hb = range(first_port, first_port + 5)
    return Endpoint("127.0.0.1", shell, iopub, stdin, control, hb, "public", "secret", "socket")


async def answer_at_once(connection: Connection, *, timeout_s: float) -> dict[str, str]:
    return {"status": "ok"}


async def never_answer(connection: Connection, *, timeout_s: float) -> dict[str, str]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def time_out(connection: Connection, *, timeout_s: float) -> dict[str, str]:
    raise TimedOut("The kernel did not answer in time.")


class RuntimeThatPulls(RuntimeInMemory):
    """It has no image, and one that it pulls has come when ``may_end`` is set."""

    name = "docker"

    def __init__(self) -> None:
        super().__init__()
        self.here = ()
        self.pulls = self.cancelled = 0
        self.may_end = asyncio.Event()
        self.tell: Callable[[PullProgress], None] = lambda _: None

    async def pull(
        self, wanted: Description, registry: Registry, tell: Callable[[PullProgress], None]
    ) -> None:
        self.pulls += 1
        self.tell = tell
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        labels = dict(wanted.labels)
        name, reference = labels["ai.backend.image.name"], str(wanted.reference)
        self.have(Image(name=name, reference=reference, runtime=self.name, labels=labels))
