"""Run kernel programs as containers of a Docker Engine."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from docker.errors import APIError, ImageNotFound, NotFound

from backendai_jupyter.agent.registry import Description
from backendai_jupyter.agent.runtime.base import (
    HOME,
    RUN_DIR,
    ContainerSpec,
    ContainerState,
    Inside,
    Origin,
)
from backendai_jupyter.agent.runtime.docker_config import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    LABEL_DEVICES,
    LABEL_GENERATION,
    LABEL_KERNEL,
    LABEL_SESSION,
    container_config,
    container_name,
)
from backendai_jupyter.agent.runtime.docker_engine import (
    CALL_TIMEOUT_S,
    cannot,
    connect,
    has_init,
    in_words,
    read_images,
    said,
)
from backendai_jupyter.agent.runtime.docker_events import EngineEvents
from backendai_jupyter.agent.runtime.docker_networks import (
    DockerNetworks,
    EngineNetworks,
    lacks_network,
)
from backendai_jupyter.agent.runtime.docker_pull import pull
from backendai_jupyter.agent.runtime.workdir import is_missing
from backendai_jupyter.config.registries import Registry
from backendai_jupyter.domain.wire import Image, PullProgress
from backendai_jupyter.errors import RuntimeFailed
from backendai_jupyter.points import reached_in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")

# The class has a method called list, so that these cannot be spelled out after it.
States = list[ContainerState]
Listed = list[dict[str, Any]]
Labels = list[str]

OVERLAY_WITHIN_S = 15.0
OVERLAY_RETRY_S = 0.2
MAX_CALLS = 32  # at once; one that stops a kernel takes as long as the kernel's grace
_NOT_ENDED = {"created", "running", "paused", "restarting"}
_KILLED = 137


class DockerRuntime:
    """Containers of one agent, known by their labels; see ``KernelRuntime``.

    All calls of the blocking SDK are made on threads of this object's own.
    """

    name = "docker"

    def __init__(
        self,
        *,
        agent_id: str,
        cluster_id: str,
        url: str | None = None,
        network: str = "bridge",
        session_subnets: str = "",
        overlay_mtu: int = 1500,
        pids_limit: Callable[[], int] = lambda: 512,
        call_timeout_s: Callable[[], float] = lambda: CALL_TIMEOUT_S,
    ) -> None:
        self._agent_id = agent_id
        self._cluster_id = cluster_id
        self._url = url
        self._network = network
        self._engine_networks = EngineNetworks(
            agent_id=agent_id,
            cluster_id=cluster_id,
            outside=network,
            subnets=session_subnets,
            mtu=overlay_mtu,
        )
        self.networks = DockerNetworks(self._engine_networks, self._with_client)
        self._pids_limit = pids_limit
        self._call_timeout_s = call_timeout_s
        self._with_init = True
        self._notes: tuple[str, ...] = ()
        self._client: Any = None
        self._events: EngineEvents | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._exits: asyncio.Queue[str] = asyncio.Queue()
        self._images_changed = asyncio.Event()

    async def open(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="docker")
        try:
            info = await self._call("say what it can do", self._connect)
        except BaseException:
            self._threads.shutdown(wait=False)
            self._threads = None
            raise
        self._with_init = has_init(info)
        self._notes = tuple(cannot(info))
        self.networks.learn(info)
        loop = asyncio.get_running_loop()
        self._events = EngineEvents(
            self._url,
            since=info["SystemTime"],
            on_exit=lambda labels: _tell(loop, self._died, labels),
            on_images=lambda: _tell(loop, self._images_changed.set),
        )
        self._events.start()

    async def close(self) -> None:
        events, threads = self._events, self._threads
        self._events = self._threads = None
        if events is not None and threads is not None:
            await asyncio.to_thread(events.close)
            await asyncio.to_thread(threads.shutdown)
            self._client.close()

    async def images(self) -> tuple[Image, ...]:
        return await self._call("list its images", lambda: read_images(self._client))

    def inside(self, spec_run_dir: Path, spec_home_dir: Path) -> Inside:
        return Inside(run_dir=RUN_DIR, home=HOME)

    async def start(self, spec: ContainerSpec) -> ContainerState:
        loop = asyncio.get_running_loop()
        patience = loop.time() + OVERLAY_WITHIN_S
        while True:
            try:
                return await self._call("start the kernel", lambda: self._start(spec))
            except RuntimeFailed as error:
                # An overlay that another engine has made is heard of a little later.
                may_come = lacks_network(str(error)) and spec.membership is not None
                if not may_come or loop.time() > patience:
                    raise
                await asyncio.sleep(OVERLAY_RETRY_S)

    async def signal(self, kernel_id: str, signum: int) -> None:
        await self._call("signal the kernel", lambda: self._signal(kernel_id, signum))

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        await self._call("stop the kernel", lambda: self._stop(kernel_id, math.ceil(grace_s)))

    async def list(self) -> list[ContainerState]:
        return await self._call("list its containers", self._list)

    async def pid(self, kernel_id: str) -> int | None:
        return await self._call("find the kernel's process", lambda: self._pid(kernel_id))

    async def origin(self, kernel_id: str) -> Origin | None:
        pid = await self.pid(kernel_id)
        return None if pid is None else Origin(pid)

    async def log_tail(self, kernel_id: str, *, max_bytes: int) -> str:
        return await self._call("read the log", lambda: self._log_tail(kernel_id, max_bytes))

    async def exits(self) -> AsyncIterator[str]:
        while True:
            yield await self._exits.get()

    async def pull(
        self, wanted: Description, registry: Registry, tell: Callable[[PullProgress], None]
    ) -> None:
        await pull(self._url, wanted, registry, tell)

    async def image_changes(self) -> AsyncIterator[None]:
        while True:
            await self._images_changed.wait()
            self._images_changed.clear()
            yield

    def notes(self) -> tuple[str, ...]:
        return self._notes

    def _died(self, labels: Mapping[str, str]) -> None:
        ours = {LABEL_AGENT: self._agent_id, LABEL_CLUSTER: self._cluster_id}
        if ours.items() <= labels.items():
            self._exits.put_nowait(labels[LABEL_KERNEL])

    async def _with_client(self, doing: str, blocking: Callable[[Any], T]) -> T:
        return await self._call(doing, lambda: blocking(self._client))

    async def _call(self, doing: str, blocking: Callable[[], T]) -> T:
        if self._threads is None:
            raise RuntimeFailed("The Docker runtime is not open.")

        def work() -> T:
            if self._client is not None:
                self._client.timeout = self._call_timeout_s()  # it may be another one by now
            with in_words(doing, self._url):
                return blocking()

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # What follows blocks, and runs on the threads.

    def _connect(self) -> dict[str, Any]:
        self._client = connect(self._url, connections=MAX_CALLS, timeout_s=self._call_timeout_s())
        info: dict[str, Any] = self._client.info()
        return info

    def _start(self, spec: ContainerSpec) -> ContainerState:
        for found in self._containers(spec.kernel_id):
            generation = _generation(found)
            if generation == spec.generation:
                if found["State"] == "created":  # an agent died before it went on
                    self._run(found["Id"], spec)
                elif found["State"] == "running":  # as above
                    self._engine_networks.join_beside(self._client, found["Id"], spec)
                return self._state(found) or _running(found["Id"], spec)
            if generation > spec.generation:
                raise RuntimeFailed(
                    f"Generation {generation} of kernel {spec.kernel_id} exists already; "
                    f"generation {spec.generation} is out of date."
                )
            self._remove(found["Id"])
        container_id = self._create(spec)
        reached_in_thread("agent.container.created")
        self._run(container_id, spec)
        return _running(container_id, spec)

    def _create(self, spec: ContainerSpec) -> str:
        if is_missing(spec):  # the engine would make it, in the folder itself and as root's
            spec = replace(spec, workdir=HOME)
        config = container_config(
            spec,
            agent_id=self._agent_id,
            cluster_id=self._cluster_id,
            network=self._network,
            pids_limit=self._pids_limit(),
            with_init=self._with_init,
        )
        try:
            made = self._client.create_container_from_config(config, container_name(spec))
        except ImageNotFound as error:
            raise RuntimeFailed(
                f"The Docker Engine has no image {spec.image.reference!r}; build it with "
                f"'jupyter backendai image build {spec.image.name}'."
            ) from error
        return str(made["Id"])

    def _run(self, container_id: str, spec: ContainerSpec) -> None:
        try:
            self._client.start(container_id)
            self._engine_networks.join_beside(self._client, container_id, spec)
        except APIError as error:
            self._remove(container_id)
            raise RuntimeFailed(
                f"Docker could not start {spec.argv[0]!r} in an image "
                f"{spec.image.reference!r}: {said(error)}{_advice(said(error))}"
            ) from error

    def _signal(self, kernel_id: str, signum: int) -> None:
        for found in self._containers(kernel_id):
            if found["State"] == "running":
                try:
                    self._client.kill(found["Id"], signum)
                except APIError as error:
                    _unless(error, 404, 409)  # it ended in the meantime

    def _stop(self, kernel_id: str, grace_s: int) -> None:
        for found in self._containers(kernel_id):
            try:
                self._client.stop(found["Id"], timeout=grace_s)
            except NotFound:
                continue
            self._remove(found["Id"])

    def _remove(self, container_id: str) -> None:
        try:
            self._client.remove_container(container_id, force=True, v=True)
        except APIError as error:
            _unless(error, 404, 409)
            if error.status_code == 409:  # somebody else is removing it
                self._wait_until_removed(container_id)

    def _wait_until_removed(self, container_id: str) -> None:
        try:
            self._client.wait(container_id, condition="removed")
        except NotFound:
            return

    def _list(self) -> States:
        states = (self._state(found) for found in self._containers())
        return [state for state in states if state is not None]

    def _pid(self, kernel_id: str) -> int | None:
        for found in self._containers(kernel_id):
            if found["State"] == "running":
                state = self._client.inspect_container(found["Id"])["State"]
                return state["Pid"] or None
        return None

    def _log_tail(self, kernel_id: str, max_bytes: int) -> str:
        found = max(self._containers(kernel_id), key=_generation, default=None)
        if found is None:
            return ""
        raw: bytes = self._client.logs(found["Id"], tail=max_bytes)  # a line has a byte at least
        return raw[-max_bytes:].decode("utf-8", "replace")

    def _containers(self, kernel_id: str | None = None) -> Listed:
        labels = self._own_labels()
        if kernel_id is not None:
            labels.append(f"{LABEL_KERNEL}={kernel_id}")
        found: Listed = self._client.containers(all=True, filters={"label": labels})
        return found

    def _own_labels(self) -> Labels:
        return [f"{LABEL_AGENT}={self._agent_id}", f"{LABEL_CLUSTER}={self._cluster_id}"]

    def _state(self, found: Mapping[str, Any]) -> ContainerState | None:
        """Return the state of a listed container, or None if it is gone by now."""
        exit_code, oom_killed = None, False
        if found["State"] not in _NOT_ENDED:
            try:
                state = self._client.inspect_container(found["Id"])["State"]
            except NotFound:
                return None
            exit_code = int(state["ExitCode"])
            # The engine also says so when only a program that the kernel had started was killed.
            oom_killed = bool(state["OOMKilled"]) and exit_code == _KILLED
        return ContainerState(
            kernel_id=found["Labels"][LABEL_KERNEL],
            generation=_generation(found),
            container_id=found["Id"],
            exit_code=exit_code,
            oom_killed=oom_killed,
            devices=found["Labels"].get(LABEL_DEVICES, ""),
            session_id=found["Labels"].get(LABEL_SESSION, ""),
        )


def _running(container_id: str, spec: ContainerSpec) -> ContainerState:
    who = (spec.kernel_id, spec.generation, container_id)
    return ContainerState(
        *who, exit_code=None, devices=spec.devices.record, session_id=spec.session_id
    )


def _generation(found: Mapping[str, Any]) -> int:
    return int(found["Labels"][LABEL_GENERATION])


def _unless(error: APIError, *harmless: int) -> None:
    if error.status_code not in harmless:
        raise error


def _advice(problem: str) -> str:
    if lacks_network(problem):
        return " Look whether this engine reaches the managers of its swarm: docker info."
    if "could not select device driver" in problem:
        return " Install NVIDIA's container toolkit on this node."
    return ""


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(what, *args)
    except RuntimeError:
        log.debug("The engine told of something after the event loop had ended.")
