"""When the relay considers itself an orphan, with its clock turned up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.process import RelayProcess

DEADLINE_S = 0.3


async def running(control: Path) -> tuple[RelayProcess, asyncio.Task[None]]:
    relay = RelayProcess(control, keep_orphans=False, owner_deadline_s=DEADLINE_S)
    listening = asyncio.Event()
    task = asyncio.create_task(relay.run(listening.set))
    await listening.wait()
    return relay, task


async def test_a_relay_that_no_agent_ever_owned_is_an_orphan(short_tmp_path: Path) -> None:
    relay, task = await running(short_tmp_path / "control")
    await asyncio.wait_for(task, 10 * DEADLINE_S)
    assert relay.orphaned


async def test_a_relay_whose_agent_took_its_leave_before_the_deadline_is_none(
    short_tmp_path: Path,
) -> None:
    relay, task = await running(short_tmp_path / "control")
    agent = RelayClient(short_tmp_path / "control")
    await agent.open()
    await agent.close(stop=False)
    ended, _ = await asyncio.wait({task}, timeout=2 * DEADLINE_S)
    assert not ended
    relay.stop()
    await task
    assert not relay.orphaned
