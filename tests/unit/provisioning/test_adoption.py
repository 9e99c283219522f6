"""A server knows, follows and drops the kernels of the other servers of its cluster."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from traitlets.config import LoggingConfigurable

from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import SYSTEM, ComputeSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import Cancelled, TimedOut, Unavailable
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.manager.survivors import Survivor
from backendai_jupyter.provisioning import adoption as adoption_module
from backendai_jupyter.provisioning import provisioner as provisioner_module
from backendai_jupyter.provisioning.adoption import Adoption
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.changes import Changes
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner
from backendai_jupyter.provisioning.requested import ServerRequest
from backendai_jupyter.supervisor import Supervisor
from tests.fakes import RuntimeInMemory
from tests.helpers import eventually
from tests.unit.one_machine import OneMachine

T = TypeVar("T")


class BackendOnThisLoop:
    """A clustered backend whose manager lives on the test's loop."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.settings = SimpleNamespace(in_cluster=True, end_timeout_s=BackendAI().end_timeout_s)
        self.is_away = self.hangs = False

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        if self.is_away:
            work.close()
            raise Unavailable("The database does not answer.")
        if self.hangs:
            work.close()
            await asyncio.Event().wait()
        return await work


class Owner(LoggingConfigurable):
    """What a provisioner needs of its kernel manager."""

    kernel_name = "backendai-python"
    shutting_down = False
    reason = ""


class KernelsInADict:
    """What adoption needs of a server's kernel managers, without their sockets."""

    def __init__(self) -> None:
        self.supervisor = Supervisor()
        self.stopping = False
        self.adoptions = 0
        self._kernels: dict[str, Any] = {}
        self._pending_kernels: dict[str, object] = {}

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self._kernels

    def list_kernel_ids(self) -> list[str]:
        return list(self._kernels)

    async def adopt(
        self, survivor: Survivor, request: ServerRequest, backend: Backend, *, state: str
    ) -> None:
        self.adoptions += 1
        kernel_id = survivor.session.jupyter_kernel_id
        assert kernel_id is not None
        provisioner = BackendAIProvisioner(kernel_id=kernel_id, parent=Owner())
        provisioner.restore(survivor, backend)
        self._kernels[kernel_id] = SimpleNamespace(provisioner=provisioner)

    async def drop(self, kernel_id: str) -> None:
        self._kernels.pop(kernel_id, None)

    def provisioner(self, kernel_id: str) -> BackendAIProvisioner:
        found: BackendAIProvisioner = self._kernels[kernel_id].provisioner
        return found


class Server:
    """One server of the machine's cluster."""

    def __init__(self, manager: Manager) -> None:
        self.backend = BackendOnThisLoop(manager)
        self.kernels = KernelsInADict()
        self.changes = Changes(manager.board, asyncio.get_running_loop())
        self.adoption = Adoption(
            cast("Backend", self.backend), cast("BackendAIMappingKernelManager", self.kernels)
        )


@pytest.fixture
def runtime() -> RuntimeInMemory:
    return RuntimeInMemory()


@pytest.fixture
async def machine(tmp_path: Path, url: str, runtime: RuntimeInMemory) -> AsyncIterator[OneMachine]:
    made = OneMachine(tmp_path, url, runtime=runtime)
    await made.start()
    yield made
    await made.kill()


@pytest.fixture
async def server(machine: OneMachine) -> AsyncIterator[Server]:
    """Another server than the one that the tests start kernels through."""
    made = Server(await machine.another_manager())
    yield made
    await made.kernels.supervisor.close()


@pytest.fixture
async def kernel(machine: OneMachine) -> ComputeSession:
    kernel_id = str(uuid.uuid4())
    session = await machine.started(kernel_id=kernel_id)
    assert session.id == session.jupyter_kernel_id == kernel_id
    return session


async def test_a_kernel_is_adopted_once_however_many_ask(
    server: Server, kernel: ComputeSession
) -> None:
    await asyncio.gather(
        *(server.adoption.catch_up(wanted) for wanted in (kernel.id, None, kernel.id, None))
    )
    await server.adoption.catch_up()
    assert server.kernels.list_kernel_ids() == [kernel.id]
    assert server.kernels.adoptions == 1


async def test_without_a_request_a_hint_is_enough(server: Server, machine: OneMachine) -> None:
    server.changes.listen(server.adoption.look)
    await server.changes.open()
    session = await machine.started(kernel_id=str(uuid.uuid4()))
    await eventually(lambda: session.id in server.kernels)
    await machine.end(session)
    await eventually(lambda: session.id not in server.kernels)
    assert server.kernels.adoptions == 1


@pytest.mark.parametrize("state", ["starting", "stopping"])
async def test_what_a_server_does_itself_is_left_alone(
    server: Server, kernel: ComputeSession, state: str
) -> None:
    if state == "starting":
        server.kernels._pending_kernels[kernel.id] = object()
    else:
        server.kernels.stopping = True
    await server.adoption.catch_up(kernel.id)
    await server.adoption.catch_up()
    assert server.kernels.list_kernel_ids() == []


async def test_a_kernel_that_has_ended_is_dropped_unless_its_server_ends_it(
    server: Server, machine: OneMachine, kernel: ComputeSession
) -> None:
    await server.adoption.catch_up()
    await machine.end(kernel)
    server.kernels._pending_kernels[kernel.id] = object()  # as jupyter_client does
    await server.adoption.catch_up()
    assert kernel.id in server.kernels
    server.kernels._pending_kernels.clear()
    await server.adoption.catch_up("another")
    assert kernel.id in server.kernels
    await server.adoption.catch_up(kernel.id)
    assert kernel.id not in server.kernels


async def test_while_the_rows_cannot_be_read_what_is_known_must_do(
    server: Server, kernel: ComputeSession
) -> None:
    await server.adoption.catch_up()
    server.backend.is_away = True
    await server.adoption.catch_up()
    await server.adoption.catch_up(kernel.id)
    assert kernel.id in server.kernels
    with pytest.raises(Unavailable):
        await server.adoption.catch_up("unknown")


async def test_a_database_that_hangs_does_not_hold_up_what_is_known(
    server: Server, kernel: ComputeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption_module, "_UNKNOWN_S", 0.1)
    await server.adoption.catch_up()
    server.backend.hangs = True
    async with asyncio.timeout(30):
        await server.adoption.catch_up(kernel.id)
    with pytest.raises(TimedOut):
        await server.adoption.catch_up("unknown")


async def test_a_restart_elsewhere_is_followed_and_its_program_watched(
    server: Server, machine: OneMachine, kernel: ComputeSession, runtime: RuntimeInMemory
) -> None:
    await server.adoption.catch_up()
    provisioner = server.kernels.provisioner(kernel.id)
    await machine.manager.sessions.restart(kernel.id, SYSTEM, generation=1)
    assert await provisioner.poll() is None
    await machine.until_running(kernel, generation=2)
    await server.adoption.catch_up(kernel.id)
    assert await provisioner.poll() is None
    runtime.die(kernel.id, 7)
    await eventually(provisioner.poll)
    assert await provisioner.poll() == 7
    assert not provisioner.is_left_to_others


async def test_whoever_restarts_a_program_that_is_gone_already_hurts_no_other(
    server: Server, machine: OneMachine, kernel: ComputeSession, runtime: RuntimeInMemory
) -> None:
    await server.adoption.catch_up()
    provisioner = server.kernels.provisioner(kernel.id)
    cast("Owner", provisioner.parent).shutting_down = True
    await machine.manager.sessions.restart(kernel.id, SYSTEM, generation=1)
    await machine.until_running(kernel, generation=2)
    assert await eventually(lambda: _polled(provisioner)) == "ended"
    await provisioner.kill()
    assert (kernel.id, signal.SIGKILL) not in runtime.signals
    provisioner._request = cast("Any", object())  # of the start; a restart in place needs none
    await provisioner.launch_kernel([])
    assert (await machine.until(kernel, Status.RUNNING)).main.generation == 2
    cast("Owner", provisioner.parent).shutting_down = False
    assert await provisioner.poll() is None


async def test_what_was_dropped_is_not_started_again_here(
    server: Server, machine: OneMachine, kernel: ComputeSession
) -> None:
    await server.adoption.catch_up()
    provisioner = server.kernels.provisioner(kernel.id)
    provisioner.leave()
    with pytest.raises(Cancelled):
        await provisioner.launch_kernel([])
    assert (await machine.until(kernel, Status.RUNNING)).main.generation == 1


async def test_an_end_that_looks_wanted_is_left_to_whoever_wants_it_for_a_while(
    server: Server, kernel: ComputeSession, runtime: RuntimeInMemory, monkeypatch: Any
) -> None:
    await server.adoption.catch_up()
    provisioner = server.kernels.provisioner(kernel.id)
    assert not provisioner.is_left_to_others
    runtime.die(kernel.id, 0)
    await eventually(lambda: provisioner.is_left_to_others)
    monkeypatch.setattr(provisioner_module, "_OTHERS_WITHIN_S", 0.0)
    assert not provisioner.is_left_to_others


async def _polled(provisioner: BackendAIProvisioner) -> str | None:
    return None if await provisioner.poll() is None else "ended"
