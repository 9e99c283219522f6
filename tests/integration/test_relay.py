"""Stock Jupyter clients use a real kernel through the relay as if it were local."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.agent.relay.probe import kernel_info
from tests.helpers import eventually
from tests.integration.journal_rig import StandstillProbe
from tests.integration.relay_rig import (
    KEEP_ALL,
    TIMEOUT_S,
    KernelProgram,
    iopub_until,
    is_idle,
    rig,
    run,
    stock_client,
)

ECHO_COMM = """
def opened(comm, message):
    comm.send({"echo": True}, buffers=message["buffers"])
get_ipython().kernel.comm_manager.register_target("echo", opened)
"""


async def test_a_stock_blocking_client_executes_code(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        assert await kernel.with_client(lambda client: run(client, "print(6 * 7)")) == "42\n"


async def test_a_request_sent_before_the_kernel_program_starts_is_answered(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path, started=False) as kernel:
        asking = asyncio.ensure_future(kernel_info(kernel.connection, timeout_s=TIMEOUT_S))
        assert not asking.done()
        kernel.program = KernelProgram(kernel.prefix)
        assert (await asking)["implementation"] == "ipython"


async def test_the_first_message_of_a_kernel_reaches_a_client_that_was_there(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await kernel.restart()
        states = await client.do(iopub_until, is_starting)
    assert states


async def test_input_reaches_the_client_and_its_answer_the_kernel(short_tmp_path: Path) -> None:
    def scenario(client: BlockingKernelClient) -> str:
        client.execute_interactive(
            "name = input('who? ')",
            stdin_hook=lambda _: client.input("Ada"),
            allow_stdin=True,
            timeout=TIMEOUT_S,
        )
        return run(client, "print(name)")

    async with rig(short_tmp_path) as kernel:
        assert await kernel.with_client(scenario) == "Ada\n"


async def test_binary_buffers_pass_unchanged_both_ways(short_tmp_path: Path) -> None:
    sent = [os.urandom(3_000_000), b"", os.urandom(10)]

    def scenario(client: BlockingKernelClient) -> list[bytes]:
        run(client, ECHO_COMM)
        content = {"comm_id": "c1", "target_name": "echo", "data": {}}
        opening = client.session.msg("comm_open", content)
        client.session.send(client.shell_channel.socket, opening, buffers=sent)
        messages = iopub_until(client, lambda message: message["msg_type"] == "comm_msg")
        return [bytes(buffer) for buffer in messages[-1]["buffers"]]

    async with rig(short_tmp_path) as kernel:
        assert await kernel.with_client(scenario) == sent


async def test_an_interrupt_request_on_control_ends_a_long_cell(short_tmp_path: Path) -> None:
    def scenario(client: BlockingKernelClient) -> str:
        msg_id = client.execute("import time; print('begun', flush=True); time.sleep(600)")
        iopub_until(client, lambda message: message["msg_type"] == "stream")
        client.control_channel.send(client.session.msg("interrupt_request", {}))
        reply = client.get_shell_msg(timeout=TIMEOUT_S)
        assert reply["parent_header"]["msg_id"] == msg_id
        return str(reply["content"]["ename"])

    async with rig(short_tmp_path) as kernel:
        assert await kernel.with_client(scenario) == "KeyboardInterrupt"


async def test_the_heart_beats_while_the_kernel_lives_and_no_longer(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        heart = await client.do(lambda blocking: blocking.hb_channel)
        heart.unpause()
        await eventually(heart.is_beating)
        kernel.stop()
        await eventually(lambda: not heart.is_beating())


async def test_a_connected_client_works_on_after_the_kernel_program_restarts(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "x = 1")
        await kernel.restart()
        again = await kernel.open_again()
        assert again == kernel.endpoint
        assert await client.do(run, "print('x' in globals())") == "False\n"


async def test_a_connected_client_works_on_after_the_kernels_sockets_moved(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        kernel.stop()
        kernel.prefix = f"{short_tmp_path}/elsewhere"
        again = await kernel.open_again()
        await kernel.start()
        assert again == kernel.endpoint
        assert await client.do(run, "print(2)") == "2\n"


async def test_a_burst_of_messages_to_a_client_that_does_not_read_arrives_complete(
    short_tmp_path: Path,
) -> None:
    count = 20_000
    burst = f"from IPython.display import display\nfor i in range({count}): display(i)"

    def read(client: BlockingKernelClient, msg_id: str) -> list[str]:
        messages = iopub_until(client, is_idle(msg_id))
        data = [message["content"]["data"] for message in messages if "data" in message["content"]]
        return [datum["text/plain"] for datum in data]

    async with rig(short_tmp_path, started=False) as kernel:
        await kernel.start(KEEP_ALL)
        async with stock_client(kernel.connection) as client:
            msg_id = await client.do(BlockingKernelClient.execute, burst)
            # The kernel is done, or waits; nothing was read yet.
            await eventually(StandstillProbe(kernel, above_bytes=100_000))
            assert await client.do(read, msg_id) == [str(i) for i in range(count)]


async def test_every_new_subscriber_is_welcomed_in_the_kernels_name(short_tmp_path: Path) -> None:
    def scenario(client: BlockingKernelClient) -> tuple[str, str]:
        client.kernel_info()
        session = client.get_shell_msg(timeout=TIMEOUT_S)["header"]["session"]
        client.iopub_channel.socket.unsubscribe(b"")
        client.iopub_channel.socket.subscribe(b"")
        welcome = iopub_until(client, lambda message: message["msg_type"] == "iopub_welcome")[-1]
        return session, welcome["header"]["session"]

    async with rig(short_tmp_path) as kernel:
        for _ in range(2):
            session_of_kernel, session_of_welcome = await kernel.with_client(scenario)
            assert session_of_kernel == session_of_welcome


def is_starting(message: dict[str, dict[str, str]]) -> bool:
    return message["content"].get("execution_state") == "starting"
