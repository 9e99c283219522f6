"""Nothing that a kernel publishes is lost: readers come, go, lag and come back."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient

from backendai_jupyter.agent.relay.records import Kind
from backendai_jupyter.provisioning.glance import Glance, glance
from tests.integration.journal_rig import (
    ask,
    attached,
    eventually_acked,
    finish,
    has_text,
    idle_of,
    session_of,
    text_of,
    until_replied,
)
from tests.integration.relay_rig import (
    TIMEOUT_S,
    rig,
    run,
    stock_client,
)

COUNT = "for i in range(100): print(i, flush=True)"
COUNTED = "".join(f"{i}\n" for i in range(100))
# Begins, and goes on when the file is there.
WAIT = """
import pathlib, time
print("begun", flush=True)
while not pathlib.Path({!r}).exists(): time.sleep(0.01)
print("gone on", flush=True)
"""


async def test_a_reader_gets_output_reply_and_status_of_a_cell(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        session = await session_of(client)
        async with attached(kernel, session) as reader:
            msg_id = await ask(client, "print(6 * 7)")
            entries = await reader.until(idle_of(msg_id))
            if not any(entry.header["msg_type"] == "execute_reply" for entry in entries):
                entries += await reader.until(lambda entry: entry.kind is Kind.SHELL)
    assert text_of(entries) == "42\n"
    assert [entry.seq for entry in entries] == [entries[0].seq + i for i in range(len(entries))]
    [request] = [entry for entry in entries if entry.kind is Kind.REQUEST]
    [reply] = [e for e in entries if e.header["msg_type"] == "execute_reply"]
    assert (request.route, request.header["msg_id"]) == (session, msg_id)
    assert (reply.route, reply.parent["msg_id"]) == (session, msg_id)


async def test_what_the_kernel_asks_and_answers_on_other_channels_is_kept(
    short_tmp_path: Path,
) -> None:
    def scenario(client: BlockingKernelClient) -> None:
        client.control_channel.send(client.session.msg("kernel_info_request", {}))
        client.get_control_msg(timeout=TIMEOUT_S)
        client.execute_interactive(
            "input('who? ')",
            stdin_hook=lambda _: client.input("Ada"),
            allow_stdin=True,
            timeout=TIMEOUT_S,
        )

    async with (
        rig(short_tmp_path) as kernel,
        stock_client(kernel.connection) as client,
        attached(kernel, "reader") as reader,
    ):
        await client.do(scenario)
        entries = await reader.until(lambda entry: entry.header["msg_type"] == "execute_reply")
    kept = [(e.kind, e.header["msg_type"]) for e in entries]
    assert (Kind.CONTROL, "kernel_info_reply") in kept
    assert (Kind.STDIN, "input_request") in kept
    assert "input_reply" not in [msg_type for _, msg_type in kept]


async def test_a_session_that_comes_back_goes_on_after_what_it_acknowledged(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        session = await session_of(client)
        async with attached(kernel, session) as reader:
            assert not reader.answer["known"]
            msg_id = await ask(client, COUNT)
            before = await reader.until(has_text("49\n"))
            await reader.ack(before[-1].seq)
            await finish(client, msg_id)
        await eventually_acked(kernel, session, before[-1].seq)
        async with attached(kernel, session) as reader:
            after = await reader.until(idle_of(msg_id))
            assert (reader.answer["known"], reader.answer["after"]) == (True, before[-1].seq)
    assert text_of(before) + text_of(after) == COUNTED


async def test_a_server_that_comes_back_says_itself_where_to_go_on(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        session = await session_of(client)
        async with attached(kernel, session) as reader:
            msg_id = await ask(client, COUNT)
            before = await reader.until(has_text("49\n"))
        async with attached(kernel, session, before[-1].seq) as reader:
            after = await reader.until(idle_of(msg_id))
    assert text_of(before) + text_of(after) == COUNTED


async def test_a_new_session_gets_the_running_cell_from_its_start(short_tmp_path: Path) -> None:
    """A page that is reloaded while its cell runs."""
    go_on = short_tmp_path / "go on"
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        async with attached(kernel, await session_of(client)) as reader:
            earlier = await ask(client, "print('an earlier cell')")
            entries = await reader.until(idle_of(earlier))
            entries += await until_replied(reader, entries)
            await reader.ack(entries[-1].seq)
            msg_id = await ask(client, WAIT.format(str(go_on)))
            await reader.until(has_text("begun"))
        async with attached(kernel, "reloaded") as reader:
            go_on.touch()
            entries = await reader.until(idle_of(msg_id))
            assert (reader.answer["known"], reader.answer["state"]) == (False, "busy")
    assert text_of(entries) == "begun\ngone on\n"


async def test_a_new_session_gets_what_ended_while_nobody_was_there_and_the_next_does_not(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        async with attached(kernel, await session_of(client)) as reader:
            msg_id = await ask(client, COUNT)
            await reader.until(has_text("1\n"))
        await finish(client, msg_id)
        async with attached(kernel, "reloaded") as reader:
            entries = await reader.until(idle_of(msg_id))
            entries += await until_replied(reader, entries)
            await reader.ack(entries[-1].seq)
        assert text_of(entries) == COUNTED
        await eventually_acked(kernel, "reloaded", entries[-1].seq)
        async with attached(kernel, "reloaded again") as reader:
            assert reader.answer["after"] == reader.answer["head"]


async def test_a_session_that_comes_twice_has_one_stream(short_tmp_path: Path) -> None:
    async with (
        rig(short_tmp_path) as kernel,
        stock_client(kernel.connection) as client,
        attached(kernel, "me") as former,
        attached(kernel, "me") as reader,
    ):
        await former.ended()
        msg_id = await ask(client, "print('once')")
        assert text_of(await reader.until(idle_of(msg_id))) == "once\n"


async def test_every_reader_gets_everything(short_tmp_path: Path) -> None:
    async with (
        rig(short_tmp_path) as kernel,
        stock_client(kernel.connection) as client,
        attached(kernel, "a") as a,
        attached(kernel, "b") as b,
    ):
        msg_id = await ask(client, COUNT)
        assert text_of(await a.until(idle_of(msg_id))) == COUNTED
        assert text_of(await b.until(idle_of(msg_id))) == COUNTED


async def test_a_watcher_learns_what_the_kernel_does_and_not_what_it_says(
    short_tmp_path: Path,
) -> None:
    async with rig(short_tmp_path) as kernel, stock_client(kernel.connection) as client:
        await client.do(run, "1")
        lines, writer = await asyncio.open_unix_connection(kernel.endpoint.journal_socket)
        writer.write(b'{"op": "watch"}\n')
        first = json.loads(await lines.readline())
        await ask(client, "print('x' * 1000, flush=True)\n" * 100)
        seen = [json.loads(await lines.readline())]
        while (seen[-1]["state"], seen[-1]["type"]) != ("idle", "status"):
            seen.append(json.loads(await lines.readline()))
        writer.close()
        await writer.wait_closed()
    assert first == {"state": "idle", "type": None, "parent": None, "readers": 0}
    assert seen[0] == {"state": "busy", "type": "status", "parent": "execute_request"}
    assert 1 <= len([news for news in seen if news["type"] == "stream"]) <= 3  # one a second


async def test_the_relay_says_how_many_read(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        async with attached(kernel, "a"), attached(kernel, "b"):
            assert await asyncio.to_thread(glance, kernel.connection) == Glance("idle", 2)
        gone = kernel.connection.model_copy(
            update={"journal_socket": "/nowhere", "journal_door": None}
        )
        assert await asyncio.to_thread(glance, gone) == Glance("idle", None)


async def test_only_the_relays_own_user_can_read_the_journal(short_tmp_path: Path) -> None:
    async with rig(short_tmp_path) as kernel:
        files = tuple(kernel.journal.iterdir())
        for path in (Path(kernel.endpoint.journal_socket), kernel.journal, *files):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
