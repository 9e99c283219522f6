"""How much memory the programs of a kernel may share: from the request to the node."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.errors import InvalidInput
from tests.unit.one_machine import OneMachine, Start


async def ask(machine: OneMachine, shm: str | None) -> int:
    """Return what the runtime is told."""
    session = await machine.ask_for(options={} if shm is None else {"shm": shm})
    await machine.until_running(session)
    written = await machine.manager.sessions.get(session.id, SYSTEM)
    told = machine.runtime.specs[session.id].shm_bytes
    assert written.main.shm_bytes == told
    return told


async def test_what_was_asked_for_comes_to_the_node(start: Start) -> None:
    machine = await start()
    assert await ask(machine, "256m") == 256 << 20
    assert await ask(machine, None) == 0


async def test_it_is_less_than_the_memory_of_the_kernel(start: Start) -> None:
    machine = await start()
    with pytest.raises(InvalidInput, match=r"1 GiB is not less than .* memory, 1 GiB") as caught:
        await ask(machine, "1g")
    assert caught.value.field == "backendai.shm"
