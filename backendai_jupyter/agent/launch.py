"""Start one kernel program: a list of named steps, each with its undo.

Every ``do`` is idempotent, because a restart of the kernel runs the same list again; every
``undo`` succeeds if there is nothing to undo, because it also clears away what an earlier
agent process left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from backendai_jupyter.agent.accelerators.exposure import Exposure
from backendai_jupyter.agent.accelerators.pool import DevicePool
from backendai_jupyter.agent.kernel_files import MEMBERS_KEY, OUTPUT_FILE, deliver, write_private
from backendai_jupyter.agent.networks import SessionNetworks
from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.agent.relay.layout import ipc_connection
from backendai_jupyter.agent.runtime.base import ContainerSpec, Inside, KernelRuntime
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.batch import CellProgress
from backendai_jupyter.domain.exits import explain_exit, with_last_lines
from backendai_jupyter.domain.wire import Assignment, Connection, Exit, ExitReason, Image
from backendai_jupyter.errors import BackendError, LaunchFailed, RuntimeFailed
from backendai_jupyter.points import reached
from backendai_jupyter.supervisor import race

log = logging.getLogger(__name__)

_ABANDONED = "Its end was asked for while it started."
LOG_TAIL_BYTES = 16 * 1024
_SOCKET_PREFIX = "s"  # sockets are RUN_DIR/s-1 .. s-5
_CONNECTION_FILE = "connection.json"


class Relay(Protocol):
    """What the steps need of the relay; see agent/relay/client.py."""

    async def open(self) -> None: ...

    async def open_kernel(
        self,
        kernel_id: str,
        ipc_prefix: str,
        key: str,
        *,
        journal: Path,
        journal_bytes: int,
        endpoint: Endpoint | None = None,
    ) -> Endpoint: ...

    async def close_kernel(self, kernel_id: str) -> None: ...

    async def notify(self, kernel_id: str, text: str, *, dead: bool = False) -> None: ...

    async def kernels(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What the steps work with; the same for all kernels of an agent."""

    node: Node
    runtimes: Mapping[str, KernelRuntime]
    relay: Relay
    ask: Callable[..., Coroutine[Any, Any, Any]]  # kernel_info of agent/relay/probe.py
    settings: BackendAIAgent  # which may change at any time
    devices: DevicePool
    networks: SessionNetworks
    secret_of: Callable[[str], str]  # that of all members of a session


@dataclass(slots=True)
class Launch:
    """One kernel on its way up; steps fill in what the later ones need."""

    kernel_id: str
    assignment: Assignment
    image: Image | None = None
    key: str = ""
    devices: Exposure = field(default_factory=Exposure)
    endpoint: Endpoint | None = None
    last_signal: int | None = None  # the last one that the owner had us deliver
    progress: CellProgress | None = None  # of the notebook of a batch
    abandoned: bool = False  # nobody wants it any more
    # Set when the program may have ended, or when it was abandoned.
    disturbed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def connection(self) -> Connection:
        """How Jupyter clients reach the kernel; known after the relay step."""
        assert self.endpoint is not None
        return self.endpoint.connection(self.key)


class Step(Protocol):
    name: str

    async def do(self, launch: Launch, tools: Tools) -> None: ...

    async def undo(self, kernel_id: str, tools: Tools) -> None: ...


class Directories:
    """Make the kernel's private directories, and its message key."""

    name = "directories"

    async def do(self, launch: Launch, tools: Tools) -> None:
        run_dir = tools.node.run_dir(launch.kernel_id)
        node, home_dir = tools.node, tools.node.home_dir(launch.kernel_id)
        node.make_private(run_dir)
        node.make_private(home_dir)
        for mount in launch.assignment.mounts:
            point = home_dir / Path(mount.target).relative_to("/home/work")
            point.mkdir(mode=0o755, parents=True, exist_ok=True)
            node.give(point)
        # An earlier generation's key stays, so that clients stay connected.
        launch.key = launch.key or stored_key(node, launch.kernel_id) or secrets.token_hex(32)

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        await asyncio.to_thread(tools.node.remove, kernel_id)


class Devices:
    """Give the kernel its accelerators; the same ones after a restart.

    They are taken back once its container is gone, wherever the start has failed.
    """

    name = "devices"

    async def do(self, launch: Launch, tools: Tools) -> None:
        limits = launch.assignment.limits
        launch.devices = await tools.devices.allot(launch.kernel_id, limits)

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        await tools.devices.release(kernel_id)


class Channels:
    """Open the kernel's five channels on the relay; the same ones after a restart."""

    name = "relay"

    async def do(self, launch: Launch, tools: Tools) -> None:
        prefix = tools.node.run_dir(launch.kernel_id) / _SOCKET_PREFIX
        launch.endpoint = await tools.relay.open_kernel(
            launch.kernel_id,
            str(prefix),
            launch.key,
            journal=tools.node.journal_dir(launch.kernel_id),
            journal_bytes=tools.settings.journal_bytes,
            endpoint=launch.endpoint,
        )

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        await tools.relay.close_kernel(kernel_id)


class Network:
    """See that the network of the kernel's session is there, if that has several kernels.

    It ends when the last of them here is undone.
    """

    name = "network"

    async def do(self, launch: Launch, tools: Tools) -> None:
        assert launch.image is not None
        await tools.networks.join(launch.assignment, tools.runtimes[launch.image.runtime])

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        await tools.networks.leave(kernel_id)


class Container:
    """Create and start the container, or the sandboxed process."""

    name = "container"

    async def do(self, launch: Launch, tools: Tools) -> None:
        assert launch.image is not None
        runtime = tools.runtimes[launch.image.runtime]
        run_dir, home_dir = (
            tools.node.run_dir(launch.kernel_id),
            tools.node.home_dir(launch.kernel_id),
        )
        files = self._files(launch, tools, runtime.inside(run_dir, home_dir))
        assignment = launch.assignment
        spec = ContainerSpec(
            kernel_id=launch.kernel_id,
            session_id=assignment.session_id,
            generation=assignment.generation,
            image=launch.image,
            argv=tuple(filled(word, files) for word in assignment.argv),
            env={**assignment.env, **launch.devices.env},
            limits=assignment.limits,
            mounts=assignment.mounts,
            workdir=assignment.workdir,
            run_dir=run_dir,
            home_dir=home_dir,
            uid=tools.node.uid,
            gid=tools.node.gid,
            hostname=assignment.hostname,
            devices=launch.devices,
            membership=assignment.membership,
            shm_bytes=assignment.shm_bytes,
        )
        await runtime.start(spec)

    def _files(self, launch: Launch, tools: Tools, inside: Inside) -> dict[str, str]:
        """Write what the program reads; returns where, by the placeholders of its command."""
        run_dir = tools.node.run_dir(launch.kernel_id)
        content = ipc_connection(f"{inside.run_dir}/{_SOCKET_PREFIX}", launch.key)
        write_private(run_dir / _CONNECTION_FILE, json.dumps(content).encode(), tools.node)
        self._deliver(launch, tools)
        return {
            "{connection_file}": f"{inside.run_dir}/{_CONNECTION_FILE}",
            "{kernel_output}": f"{inside.run_dir}/{OUTPUT_FILE}",
        }

    def _deliver(self, launch: Launch, tools: Tools) -> None:
        """Write the code that a Python kernel runs, and the secret of its session's members."""
        run_dir = tools.node.run_dir(launch.kernel_id)
        deliver(run_dir, tools.node)
        if launch.assignment.membership is not None:
            secret = tools.secret_of(launch.assignment.session_id)
            write_private(run_dir / MEMBERS_KEY, secret.encode(), tools.node)

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        for runtime in tools.runtimes.values():
            await runtime.stop(kernel_id, grace_s=tools.settings.stop_grace_s)


class Answer:
    """Wait until the kernel answers through the relay, as its clients will ask it."""

    name = "answer"

    async def do(self, launch: Launch, tools: Tools) -> None:
        assert launch.endpoint is not None
        connection = launch.endpoint.connection_from_here(launch.key)
        await race(
            tools.ask(connection, timeout_s=tools.settings.answer_timeout_s),
            trouble(launch, tools, self.name),
        )

    async def undo(self, kernel_id: str, tools: Tools) -> None:
        """Nothing stays behind from asking."""


STEPS: tuple[Step, ...] = (
    Directories(),
    Devices(),
    Channels(),
    Network(),
    Container(),
    Answer(),
)
FIRST_STEP = STEPS[0].name


async def run_steps(
    launch: Launch,
    tools: Tools,
    on_step: Callable[[str], Coroutine[Any, Any, None]],
    steps: Sequence[Step] = STEPS,
) -> None:
    """Take the kernel from nothing, or from its last generation, to its first answer.

    Raises ``LaunchFailed`` naming the step; ``give_up`` or ``clear`` what is there then.
    """
    for step in steps:
        try:
            await on_step(step.name)
            if launch.abandoned:
                raise LaunchFailed(step.name, _ABANDONED)
            await reached(f"agent.step.{step.name}")
            await step.do(launch, tools)
            await reached(f"agent.done.{step.name}")
        except (BackendError, OSError) as error:
            log_tail = await _log_tail(launch, tools)
            if isinstance(error, LaunchFailed):
                error.log_tail = error.log_tail or log_tail
                raise
            cause = error.code if isinstance(error, RuntimeFailed) else ""
            raise LaunchFailed(step.name, in_words(error), log_tail, cause=cause) from error


async def dismantle(kernel_id: str, tools: Tools) -> None:
    """Undo every step in reverse; succeeds if nothing of the kernel exists."""
    for step in reversed(STEPS):
        await reached(f"agent.undo.{step.name}")
        await step.undo(kernel_id, tools)


async def clear(kernel_id: str, tools: Tools) -> None:
    """Remove the program of a start that failed and is tried again; the rest stays."""
    with contextlib.suppress(RuntimeFailed):  # the next attempt does it, or fails as well
        await Container().undo(kernel_id, tools)


async def give_up(kernel_id: str, tools: Tools) -> None:
    """Dismantle a start that failed; what cannot be undone now goes with its assignment."""
    try:
        await dismantle(kernel_id, tools)
    except (BackendError, OSError) as error:
        log.warning("kernel %s is not wholly removed yet: %s", kernel_id, in_words(error))


async def exited(launch: Launch, tools: Tools) -> Exit | None:
    """Return why the program of this generation is not running, or None if it is."""
    assert launch.image is not None
    runtime = tools.runtimes[launch.image.runtime]
    state = next((s for s in await runtime.list() if s.kernel_id == launch.kernel_id), None)
    if state is None:
        return Exit(
            reason=ExitReason.EXITED,
            message="The kernel's container was removed by somebody else.",
        )
    if state.exit_code is None:
        return None
    return explain_exit(
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        limits=launch.assignment.limits,
        log_tail=await _log_tail(launch, tools),
        asked_to=launch.last_signal,
    )


async def until_abandoned(launch: Launch, step: str) -> NoReturn:
    """Raise ``LaunchFailed`` as soon as nobody wants the kernel any more."""
    while not launch.abandoned:
        await launch.disturbed.wait()
        launch.disturbed.clear()
    raise LaunchFailed(step, _ABANDONED)


async def trouble(launch: Launch, tools: Tools, step: str) -> NoReturn:
    """Raise ``LaunchFailed`` as soon as waiting for an answer has become pointless."""
    while True:
        await launch.disturbed.wait()
        launch.disturbed.clear()
        if launch.abandoned:
            raise LaunchFailed(step, _ABANDONED)
        if (ending := await exited(launch, tools)) is not None:
            raise LaunchFailed(
                step,
                f"It ended before it answered. {with_last_lines(ending)}",
                ending.log_tail,
                cause=ending.reason if ending.reason is ExitReason.SIGNALLED else "",
            )


async def _log_tail(launch: Launch, tools: Tools) -> str:
    if launch.image is None:
        return ""
    runtime = tools.runtimes[launch.image.runtime]
    try:
        return await runtime.log_tail(launch.kernel_id, max_bytes=LOG_TAIL_BYTES)
    except RuntimeFailed:
        return ""  # there may be no container, hence no log, when a step has failed


def stored_key(node: Node, kernel_id: str) -> str:
    """Return the message key of a kernel that was started before, or an empty string."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        path = node.run_dir(kernel_id) / _CONNECTION_FILE
        return str(json.loads(path.read_text())["key"])
    return ""


def filled(word: str, files: Mapping[str, str]) -> str:
    """Return a word of the kernelspec's command with the paths of its files."""
    for placeholder, path in files.items():
        word = word.replace(placeholder, path)
    return word


def in_words(error: BackendError | OSError) -> str:
    """Return a sentence; of an error of the system with the file that it is about."""
    if isinstance(error, BackendError):
        return str(error)
    about = f"{error.filename}: " if error.filename else ""
    return f"{about}{error.strerror or error}."
