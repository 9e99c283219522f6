"""Kernel websockets: whoever comes back has missed nothing."""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.acceptance.channels import started
from tests.acceptance.kernel_client import V1, Clients, KernelClient, Message, printed, relay_of
from tests.acceptance.links import LinkThatVanishes
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"
LINES = 800
PRINT_LINES = f"""
import time
for number in range({LINES}):
    print("line", number, flush=True)
    time.sleep(2 if number == 200 else 0.01)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config=PROCESS) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="module")
async def clients(server: RunningServer) -> AsyncIterator[Clients]:
    async with Clients.of_new_kernel(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def link(server: RunningServer) -> AsyncIterator[LinkThatVanishes]:
    async with LinkThatVanishes.to(server.url) as running:
        yield running


def numbers(messages: Sequence[Message]) -> list[int]:
    return [int(number) for number in re.findall(r"line (\d+)\n", printed([*messages]))]


async def test_a_client_that_comes_back_gets_the_rest_once(
    clients: Clients, link: LinkThatVanishes
) -> None:
    client = await clients.open(link.url)
    other = await clients.open()
    msg_id = await client.execute(PRINT_LINES)
    before = await client.until(lambda m: "line 200\n" in printed([m]))
    rest = await client.rest()  # which confirms it, while the kernel pauses
    await link.vanish()
    others = await other.until(lambda m: "line 550\n" in printed([m]))
    again = await clients.open(link.url, session=client.session)
    after = await again.until_done(msg_id)
    assert numbers([*before, *rest, *after]) == [*range(LINES)]
    assert numbers(after)[0] == 201
    others += await other.until(lambda m: m.is_idle_of(msg_id))
    assert numbers(others) == [*range(LINES)]


async def test_a_page_that_is_loaded_again_gets_a_running_cell_from_its_start(
    clients: Clients, link: LinkThatVanishes
) -> None:
    client = await clients.open(link.url)
    other = await clients.open()
    msg_id = await client.execute(PRINT_LINES)
    await client.until(lambda m: "line 200\n" in printed([m]))
    await link.vanish()
    await other.until(lambda m: "line 550\n" in printed([m]))
    page = await clients.open()
    assert numbers(await page.until(lambda m: m.is_idle_of(msg_id))) == [*range(LINES)]


async def test_what_ended_while_nobody_was_there_waits_for_its_client(clients: Clients) -> None:
    client = await clients.open()
    msg_id = await client.execute("import time; time.sleep(1); print('line 1'); 7")
    await client.until(lambda m: m.type == "execute_input")
    client.leave()
    other = await clients.open()
    assert printed(await other.run("print('line 2')")).endswith("line 2\n")
    again = await clients.open(session=client.session)
    missed = [m for m in await again.until_done(msg_id) if m.parent["msg_id"] == msg_id]
    assert printed(missed) == "line 1\n"
    assert [m.content["data"] for m in missed if m.type == "execute_result"] == [
        {"text/plain": "7"}
    ]


async def test_a_pong_that_is_lost_costs_no_message(
    clients: Clients, link: LinkThatVanishes
) -> None:
    client = await clients.open(link.url)
    msg_id = await client.execute(PRINT_LINES)
    before = await client.until(lambda m: "line 100\n" in printed([m]))
    await link.vanish(at_once=True)
    before += await client.rest()
    again = await clients.open(link.url, session=client.session)
    after = numbers(await again.until_done(msg_id))
    assert after == [*range(after[0], LINES)]
    assert after[0] <= numbers(before)[-1] + 1


@pytest.mark.parametrize("protocol", [V1, ""])
async def test_both_protocols_carry_all_channels(clients: Clients, protocol: str) -> None:
    client = await clients.open(protocol=protocol)
    msg_id = await client.execute("print(input('name? ') + '!')")
    question = (await client.until(lambda m: m.type == "input_request"))[-1]
    assert (question.channel, question.content["prompt"]) == ("stdin", "name? ")
    await client.send("input_reply", {"value": "Ada", "status": "ok"}, channel="stdin")
    messages = await client.until_done(msg_id)
    assert printed(messages) == "Ada!\n"
    assert {(m.channel, m.type) for m in messages} >= {("shell", "execute_reply")}
    await client.send("interrupt_request", {}, channel="control")
    assert (await client.until(lambda m: m.type == "interrupt_reply"))[-1].channel == "control"
    send = "k = get_ipython().kernel; k.session.send(k.iopub_socket, 'x', {}, buffers=[b'one'])"
    await client.execute(send)
    assert (await client.until(lambda m: m.type == "x"))[-1].buffers == [b"one"]


async def test_answers_go_to_who_asked(clients: Clients) -> None:
    one, two = await clients.open(), await clients.open()
    await one.run("1")
    seen = await two.run("2")
    assert [m.parent["session"] for m in seen if m.channel == "shell"] == [two.session]
    assert {m.parent["session"] for m in seen if m.channel == "iopub"} == {
        one.session,
        two.session,
    }


async def test_opening_does_not_wait_for_a_busy_kernel(clients: Clients) -> None:
    client = await clients.open()
    msg_id = await client.execute("import time; time.sleep(3); print('done')")
    await client.until(lambda m: m.type == "execute_input")
    other = await clients.open()
    assert (await other.until(lambda m: m.is_idle_of(msg_id)))[-1].type == "status"


async def test_a_websocket_goes_on_over_a_restart_of_its_kernel(
    server: RunningServer, clients: Clients
) -> None:
    client = await clients.open()
    await client.run("x = 1")
    assert (await server.post(f"api/kernels/{clients.kernel_id}/restart")).is_success
    assert printed(await client.run("print('x' in globals())")).endswith("False\n")


async def test_the_death_of_a_kernel_is_told_after_what_it_printed(clients: Clients) -> None:
    client = await clients.open()
    await client.execute("import os, time; print('last', flush=True); time.sleep(0.1); os._exit(3)")
    messages = await client.until(lambda m: m.content.get("execution_state") == "restarting")
    assert "last\n" in printed(messages)
    assert printed(await client.run("print('again')")).endswith("again\n")


async def test_a_websocket_goes_on_over_the_death_of_its_relay(short_tmp_path: Path) -> None:
    async with (
        RunningServer(short_tmp_path, config=PROCESS) as server,
        Clients.of_new_kernel(server) as clients,
    ):
        for protocol in (V1, ""):
            client = await clients.open(protocol=protocol)
            await client.run("x = 1")
            for _ in range(2):
                relay = relay_of(server)
                relay.kill()  # just before it gets the request
                assert printed(await client.run("print(x); x += 1")) == "1\n"
                assert printed(await client.run("print(x); x -= 1")) == "2\n"
                await is_replaced(server, relay)


async def test_a_flood_is_complete_and_comes_once_though_its_relay_is_killed(
    short_tmp_path: Path,
) -> None:
    lines = 12_000
    async with (
        RunningServer(short_tmp_path, config=PROCESS) as server,
        Clients.of_new_kernel(server) as clients,
    ):
        client = await clients.open()
        code = f"for number in range({lines}): print('line', number, flush=True)"
        msg_id = await client.execute(code)
        messages: list[Message] = []
        for number in (100, 4_000, 8_000):
            messages += await client.until(partial(has_line, number))
            relay = relay_of(server)
            relay.kill()
            await is_replaced(server, relay)
        messages += await client.until_done(msg_id)
        assert numbers(messages) == [*range(lines)]
        assert printed(await client.run("print('next')")) == "next\n"


def has_line(number: int, message: Message) -> bool:
    return f"line {number}\n" in printed([message])


async def is_replaced(server: RunningServer, former: psutil.Process) -> None:
    def there() -> bool:
        try:
            return not former.is_running() and bool(relay_of(server).is_running())
        except ValueError:
            return False

    await eventually(there)


async def test_a_client_that_comes_back_to_another_server_gets_the_rest_once(
    short_tmp_path: Path,
) -> None:
    async with (
        RunningServer(short_tmp_path, config=PROCESS, kernels_outlive=True) as server,
        Clients.of_new_kernel(server) as clients,
    ):
        client = await clients.open()
        msg_id = await client.execute(PRINT_LINES + "time.sleep(600)")
        before = await client.until(lambda m: "line 200\n" in printed([m]))
        before += await client.rest()
        server.signal(signal.SIGKILL)
        await server.wait()
        await server.start()
        (kernel,) = (await server.get("api/kernels")).json()
        assert kernel["execution_state"] == "busy"
        again = await clients.open(session=client.session)
        after = await again.until(lambda m: has_line(LINES - 1, m))
        await server.post(f"api/kernels/{clients.kernel_id}/interrupt")
        after += await again.until_done(msg_id)
        assert numbers([*before, *after]) == [*range(LINES)]
        assert numbers(after)[0] == 201


async def test_a_kernels_state_is_followed(server: RunningServer, clients: Clients) -> None:
    client = await clients.open()

    async def kernel(**wanted: Any) -> Any:
        model = (await server.get(f"api/kernels/{clients.kernel_id}")).json()
        return wanted.items() <= model.items() and model

    idle = await eventually(lambda: kernel(execution_state="idle", connections=1))
    msg_id = await client.execute("import time; time.sleep(2)")
    busy = await eventually(lambda: kernel(execution_state="busy"))
    await client.until_done(msg_id)
    after = await eventually(lambda: kernel(execution_state="idle"))
    assert idle["last_activity"] < busy["last_activity"] < after["last_activity"]
    client.leave()
    await eventually(lambda: kernel(connections=0))


async def test_local_kernels_are_not_limited_either(server: RunningServer) -> None:
    kernel_id = await started(server, name="python3")
    async with KernelClient.open(server.url, server.token, kernel_id) as client:
        flood = "for n in range(6000): print('line', n, flush=True)"
        assert numbers(await client.run(flood)) == [*range(6000)]
