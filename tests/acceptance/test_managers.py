"""Two servers over the same stores: whatever is done through one is so for the other at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import nbformat
import psutil
import pytest
import pytest_asyncio
from tornado.httpclient import HTTPClientError

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.stores import open_cluster_store
from tests.acceptance.events import Events
from tests.acceptance.kernel_client import KernelClient, Message, printed
from tests.cluster import AgentProcess, Cluster
from tests.helpers import eventually
from tests.server import RunningServer, private_directories

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@dataclass
class Pair:
    cluster: Cluster
    agent: AgentProcess
    one: RunningServer
    other: RunningServer

    async def leader_first(self) -> tuple[RunningServer, RunningServer] | None:
        """Return the server that leads and the other one; None while nobody does."""
        async with open_cluster_store(self.cluster.etcd.url()) as store:
            place = await store.get(keys.LEADER)
        if place is None:
            return None
        if f"{place.value} leads" in self.one.log:
            return self.one, self.other
        return self.other, self.one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with Cluster() as cluster:
        agent = await cluster.add_agent()
        one, other = await asyncio.gather(cluster.add_server(), cluster.add_server())
        yield Pair(cluster, agent, one, other)


@pytest_asyncio.fixture(loop_scope="module")
async def kernel(pair: Pair) -> AsyncIterator[str]:
    """A kernel that was started through the one server, not a moment ago."""
    answer = await pair.one.post("api/kernels", json={"name": "backendai-python"})
    assert answer.status_code == 201, (answer.text, pair.one.log)
    kernel_id = str(answer.json()["id"])
    yield kernel_id
    await pair.other.delete(f"api/kernels/{kernel_id}")


async def test_a_kernel_is_at_the_other_server_at_once(pair: Pair, kernel: str) -> None:
    listed = (await pair.other.get("api/kernels")).json()
    assert [model["id"] for model in listed] == [kernel]
    models = [
        (await server.get(f"api/kernels/{kernel}")).json() for server in (pair.other, pair.one)
    ]
    assert models[0]["name"] == models[1]["name"] == "backendai-python"
    assert await run(pair.one, kernel, "x = 6") == ""
    assert await run(pair.other, kernel, "print(x * 7)") == "42\n"


@pytest.mark.parametrize("what", ["model", "channels", "interrupt", "restart"])
async def test_the_very_first_request_finds_it(pair: Pair, kernel: str, what: str) -> None:
    if what == "model":
        answer = await pair.other.get(f"api/kernels/{kernel}")
        assert answer.json()["execution_state"] in {"idle", "busy", "starting"}
    elif what == "channels":
        assert await run(pair.other, kernel, "print(1)") == "1\n"
    else:
        answer = await pair.other.post(f"api/kernels/{kernel}/{what}")
        assert answer.is_success, (answer.text, pair.other.log)


async def test_a_kernel_shut_down_through_one_is_gone_from_the_other_at_once(
    pair: Pair, kernel: str
) -> None:
    async with (
        Events.follow(pair.other) as events,
        KernelClient.open(pair.other.url, pair.other.token, kernel) as client,
    ):
        assert (await pair.one.delete(f"api/kernels/{kernel}")).status_code == 204
        assert (await pair.other.get(f"api/kernels/{kernel}")).status_code == 404
        assert (await pair.other.get("api/kernels")).json() == []
        for request in ("interrupt", "restart"):
            answer = await pair.other.post(f"api/kernels/{kernel}/{request}")
            assert answer.status_code == 404
        with pytest.raises(HTTPClientError, match="404"):
            async with KernelClient.open(pair.other.url, pair.other.token, kernel):
                """Nobody gets here."""
        await events.until(lambda event: event["status"] == "TERMINATED")
        await client.until(is_status("dead"))
    assert programs(pair.agent) == []


async def test_a_notebook_has_one_kernel_at_both(pair: Pair) -> None:
    wanted = {"kernel": {"name": "backendai-python"}, "type": "notebook"}
    wanted |= {"path": "data/nb.ipynb", "name": "nb.ipynb"}
    made = await pair.one.post("api/sessions", json=wanted)
    assert made.status_code == 201, (made.text, pair.one.log)
    session, kernel_id = made.json()["id"], made.json()["kernel"]["id"]
    (shown,) = (await pair.other.get("api/sessions")).json()
    assert (shown["id"], shown["kernel"]["id"]) == (session, kernel_id)
    again = await pair.other.post("api/sessions", json=wanted)
    assert (again.json()["id"], again.json()["kernel"]["id"]) == (session, kernel_id)
    assert await run(pair.other, kernel_id, "print(1)") == "1\n"
    assert (await pair.other.delete(f"api/sessions/{session}")).status_code == 204
    for server in (pair.one, pair.other):
        assert (await server.get("api/sessions")).json() == []
        assert await listed(server) == []


async def test_a_restart_through_one_is_no_death_for_the_other(pair: Pair, kernel: str) -> None:
    await run(pair.one, kernel, "x = 1")
    async with KernelClient.open(pair.one.url, pair.one.token, kernel) as client:
        for number in (2, 3):
            answer = await pair.other.post(f"api/kernels/{kernel}/restart")
            assert answer.status_code == 200, (answer.text, pair.other.log)
            assert await generation(pair, kernel) == number
        await client.run("print('x' in dir())")
        assert not any(is_status("restarting")(message) for message in await client.rest())
    assert await run(pair.one, kernel, "print('x' in dir())") == "False\n"
    assert (await pair.one.post(f"api/kernels/{kernel}/restart")).status_code == 200
    assert await generation(pair, kernel) == 4
    for server in (pair.one, pair.other):
        assert "has been restarted by somebody else" not in server.log
        assert "Kernel is not started again" not in server.log


async def test_two_restarts_at_once_both_end_well(pair: Pair, kernel: str) -> None:
    await run(pair.other, kernel, "x = 1")
    answers = await asyncio.gather(
        *(server.post(f"api/kernels/{kernel}/restart") for server in (pair.one, pair.other))
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    for server in (pair.one, pair.other):
        assert await run(server, kernel, "print('x' in dir())") == "False\n"


async def test_of_two_that_see_a_death_one_restarts_the_kernel(pair: Pair, kernel: str) -> None:
    async with (
        KernelClient.open(pair.one.url, pair.one.token, kernel) as here,
        KernelClient.open(pair.other.url, pair.other.token, kernel) as there,
    ):
        for expected in (2, 3):
            await there.execute("import os; os.kill(os.getpid(), 9)")
            await asyncio.gather(
                *(client.until(is_status("restarting")) for client in (here, there))
            )

            async def is_back(number: int = expected) -> bool:
                return await generation(pair, kernel) == number and await is_idle(pair, kernel)

            await eventually(is_back, within_s=30)
    for server in (pair.one, pair.other):
        assert await run(server, kernel, "print(1)") == "1\n"
    assert await generation(pair, kernel) == 3


async def test_an_interrupt_through_one_reaches_what_the_other_runs(
    pair: Pair, kernel: str
) -> None:
    async with KernelClient.open(pair.one.url, pair.one.token, kernel) as client:
        request = await client.execute("import time\nprint('in')\nwhile True: time.sleep(0.01)")
        await client.until(lambda message: message.type == "stream")
        answer = await pair.other.post(f"api/kernels/{kernel}/interrupt")
        assert answer.status_code == 204
        messages = await client.until_done(request)
        assert [m.content["ename"] for m in messages if m.type == "error"] == ["KeyboardInterrupt"]


async def test_a_start_through_one_is_shown_and_can_be_ended_through_the_other(pair: Pair) -> None:
    pair.agent.signal(signal.SIGSTOP)
    try:
        starting = asyncio.ensure_future(
            pair.one.post("api/kernels", json={"name": "backendai-python"})
        )
        await eventually(lambda: listed(pair.other))
        (model,) = await listed(pair.other)
        assert model["execution_state"] == "starting"
        kernel_id = model["id"]
        found = (await pair.other.get(f"api/kernels/{kernel_id}")).json()
        assert (found["id"], found["execution_state"]) == (kernel_id, "starting")
        assert (await pair.other.delete(f"api/kernels/{kernel_id}")).status_code == 204
        assert await listed(pair.other) == []
    finally:
        pair.agent.signal(signal.SIGCONT)
    answer = await starting
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")


async def test_a_folder_made_through_one_is_at_the_other_at_once(pair: Pair) -> None:
    assert (await pair.other.get("api/contents/data")).status_code == 200  # it knows the folders
    for number in range(5):
        name = f"f{number}"
        made = await pair.one.request("PUT", f"api/contents/{name}", json={"type": "directory"})
        assert made.status_code == 201
        if number % 2:
            listing = (await pair.other.get("api/contents/")).json()["content"]
            assert name in {entry["name"] for entry in listing}
        else:
            assert (await pair.other.get(f"api/contents/{name}")).status_code == 200
        file = {"type": "file", "format": "text", "content": "x"}
        saved = await pair.other.request("PUT", f"api/contents/{name}/x.txt", json=file)
        assert saved.status_code == 201
    moved = await pair.one.request("PATCH", "api/contents/f0", json={"path": "g0"})
    assert moved.status_code == 200, moved.text
    assert (await pair.other.get("api/contents/g0/x.txt")).json()["content"] == "x"

    async def is_forgotten() -> bool:
        return (await pair.other.get("api/contents/f0")).status_code == 404

    await eventually(is_forgotten, within_s=10)


async def test_a_batch_run_ends_its_own_kernel_and_no_server_touches_it(
    pair: Pair, kernel: str
) -> None:
    place = pair.cluster.root / "batch"  # its working directory, which its kernel sees
    place.mkdir(mode=0o755)
    notebook = nbformat.v4.new_notebook()
    code = "import pathlib, time\nwhile not pathlib.Path('gate').exists(): time.sleep(0.01)"
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    (place / "batch.ipynb").write_text(nbformat.writes(notebook))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter", "execute", "--kernel_name=backendai-python"),
        "batch.ipynb",
        env={**os.environ, **private_directories(pair.one.root)},
        cwd=place,
        stderr=asyncio.subprocess.PIPE,
    )

    async def is_running() -> bool:
        return len(await sessions(pair, "RUNNING")) == 2

    await eventually(is_running, within_s=60)
    assert [model["id"] for model in await listed(pair.one)] == [kernel]
    assert [model["id"] for model in await listed(pair.other)] == [kernel]
    (place / "gate").touch()
    async with asyncio.timeout(30):
        _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    (left,) = await sessions(pair, "RUNNING")
    assert left["id"] == kernel
    assert await run(pair.other, kernel, "print(1)") == "1\n"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_the_leader_ends_and_its_clients_go_on_at_the_other(
    pair: Pair, kernel: str, signum: signal.Signals
) -> None:
    found = await eventually(pair.leader_first, within_s=30)
    assert found is not None
    leader, other = found
    async with KernelClient.open(leader.url, leader.token, kernel) as client:
        request = await client.execute(
            "import time\nfor i in range(100): print(i); time.sleep(0.01)"
        )
        seen = await client.until(lambda message: message.type == "stream")
        leader.signal(signum)
        seen += await client.last()
    async with KernelClient.open(other.url, other.token, kernel, session=client.session) as again:
        rest = await again.until_done(request)
    known = {message.header["msg_id"] for message in seen}
    together = [*seen, *(m for m in rest if m.header["msg_id"] not in known)]
    assert printed(together) == "".join(f"{number}\n" for number in range(100))
    await leader.wait()
    answer = await other.post(
        "api/kernels", json={"name": "backendai-python"}
    )  # the next places it
    assert answer.status_code == 201, (answer.text, other.log)
    await leader.start()
    assert {model["id"] for model in await listed(leader)} == {kernel, answer.json()["id"]}
    assert await run(leader, kernel, "print(i)") == "99\n"
    assert (await leader.delete(f"api/kernels/{answer.json()['id']}")).status_code == 204


def is_status(state: str) -> Any:
    def holds(message: Message) -> bool:
        return message.type == "status" and message.content["execution_state"] == state

    return holds


async def run(server: RunningServer, kernel_id: str, code: str) -> str:
    async with KernelClient.open(server.url, server.token, kernel_id) as client:
        request = await client.execute(code)
        messages = await client.until_done(request)
    return printed([message for message in messages if message.parent.get("msg_id") == request])


async def listed(server: RunningServer) -> list[dict[str, Any]]:
    return list((await server.get("api/kernels")).json())


async def sessions(pair: Pair, status: str) -> list[dict[str, Any]]:
    answer = await pair.one.get("backendai/v1/sessions", params={"status": status})
    return list(answer.json())


async def generation(pair: Pair, kernel_id: str) -> int:
    answer = await pair.one.get(f"backendai/v1/sessions/{kernel_id}")
    return int(answer.json()["kernels"][0]["generation"])


async def is_idle(pair: Pair, kernel_id: str) -> bool:
    models = [
        (await server.get(f"api/kernels/{kernel_id}")).json() for server in (pair.one, pair.other)
    ]
    return all(model["execution_state"] == "idle" for model in models)


def programs(agent: AgentProcess) -> list[str]:
    """Return the command lines of the kernel programs that this agent has running."""
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [
        json.dumps(line)
        for line in lines
        if "ipykernel_launcher" in line and any(str(agent.root) in word for word in line)
    ]
