"""What the relay tells the people who watch a kernel; jupyter_client checks the signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.errors import RelayFailed
from tests.integration.journal_rig import ask, attached, request_of, session_of
from tests.integration.relay_rig import (
    TIMEOUT_S,
    Client,
    Message,
    Rig,
    iopub_until,
    is_idle,
    rig,
    run,
    stock_client,
)

SLEEP = "import time; print('begun', flush=True); time.sleep(600)"
TEXT = "Killed: out of memory (limit 512 MiB)."


def is_notice(message: Message) -> bool:
    return (message["msg_type"], message["content"].get("name")) == ("stream", "stderr")


def begin(client: BlockingKernelClient) -> str:
    """Run a cell that never ends and return its id."""
    msg_id: str = client.execute(SLEEP)
    iopub_until(client, lambda message: message["msg_type"] == "stream")
    return msg_id


def reply_of(client: BlockingKernelClient) -> Message:
    reply: Message = client.get_shell_msg(timeout=TIMEOUT_S)
    return reply


async def notice(kernel: Rig, client: Client) -> Message:
    await kernel.relay.notify(kernel.kernel_id, TEXT)
    return (await client.do(iopub_until, is_notice))[-1]


async def test_a_notice_appears_under_the_cell_that_runs(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        msg_id = await client.do(begin)
        message = await notice(kernel, client)
    assert message["parent_header"]["msg_id"] == msg_id
    assert message["content"]["text"] == TEXT + "\n"


async def test_a_notice_while_nothing_runs_has_no_cell(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "print(1)")
        message = await notice(kernel, client)
    assert message["parent_header"] == {}


async def test_a_notice_carries_the_kernels_own_session(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(BlockingKernelClient.kernel_info)
        reply = await client.do(reply_of)
        message = await notice(kernel, client)
    assert message["header"]["session"] == reply["header"]["session"]


async def test_the_cell_of_a_dead_kernel_ends_with_the_reason(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        msg_id = await client.do(begin)
        kernel.stop()
        await kernel.relay.notify(kernel.kernel_id, TEXT, dead=True)
        rest = await client.do(iopub_until, is_idle(msg_id))
        reply = await client.do(reply_of)
    assert not [message for message in rest if is_notice(message)]  # it is said once
    [error] = [message["content"] for message in rest if message["msg_type"] == "error"]
    assert (error["ename"], error["evalue"], error["traceback"]) == ("KernelDied", TEXT, [TEXT])
    assert reply["parent_header"]["msg_id"] == msg_id
    assert (reply["content"]["status"], reply["content"]["evalue"]) == ("error", TEXT)


async def test_cells_queued_behind_the_one_that_died_end_as_aborted(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(begin)
        async with attached(kernel, await session_of(client)) as reader:
            queued = await ask(client, "print('never')")
            await reader.until(request_of(queued))
        kernel.stop()
        await kernel.relay.notify(kernel.kernel_id, TEXT, dead=True)
        await client.do(iopub_until, is_idle(queued))
        await client.do(reply_of)
        reply = await client.do(reply_of)
    assert (reply["parent_header"]["msg_id"], reply["content"]["status"]) == (queued, "aborted")


async def test_no_request_is_lost_to_the_relays_own_way_of_replying(short_tmp_path: Path) -> None:
    def scenario(client: BlockingKernelClient) -> list[str]:
        return [run(client, f"print({i})") for i in range(50)]

    async with rig(short_tmp_path) as kernel:
        assert await kernel.with_client(scenario) == [f"{i}\n" for i in range(50)]


async def test_a_restarted_kernel_is_not_blamed_for_the_former_ones_cell(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(begin)
        await kernel.restart()
        message = await notice(kernel, client)
    assert message["parent_header"] == {}


async def test_a_notice_reaches_its_readers_when_the_channels_close_at_once(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await kernel.relay.notify(kernel.kernel_id, TEXT)
        await kernel.relay.close_kernel(kernel.kernel_id)
        assert await client.do(iopub_until, is_notice)


async def test_a_kernel_without_channels_cannot_be_notified(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        with pytest.raises(RelayFailed, match="k2 has no channels"):
            await kernel.relay.notify("k2", TEXT)
