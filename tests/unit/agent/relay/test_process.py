"""When the relay considers itself an orphan, with its clock turned up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backendai_jupyter.agent.relay.client import RelayClient
from backendai_jupyter.agent.relay.process import RelayProcess

DEADLINE_S = 1.0


async def running(
    control: Path, *, keep_orphans: bool = False
) -> tuple[RelayProcess, asyncio.Task[None]]:
    relay = RelayProcess(control, keep_orphans=keep_orphans, owner_deadline_s=DEADLINE_S)
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


async def test_a_relay_that_outlives_its_agent_ends_when_it_has_nothing_to_keep(
    short_tmp_path: Path,
) -> None:
    relay, task = await running(short_tmp_path / "control", keep_orphans=True)
    agent = RelayClient(short_tmp_path / "control")
    await agent.open()
    ended, _ = await asyncio.wait({task}, timeout=3 * DEADLINE_S)
    assert not ended
    await agent.close(stop=False)
    await asyncio.wait_for(task, 10 * DEADLINE_S)
    assert not relay.orphaned


async def test_a_relay_with_kernels_waits_for_an_agent_while_one_can_find_it(
    short_tmp_path: Path,
) -> None:
    control = short_tmp_path / "control"
    _, task = await running(control, keep_orphans=True)
    agent = RelayClient(control)
    await agent.open()
    await agent.open_kernel(
        "k", str(short_tmp_path / "s"), "key", journal=short_tmp_path / "j", journal_bytes=1 << 20
    )
    await agent.close(stop=False)
    ended, _ = await asyncio.wait({task}, timeout=3 * DEADLINE_S)
    assert not ended
    control.unlink()
    await asyncio.wait_for(task, 10 * DEADLINE_S)
