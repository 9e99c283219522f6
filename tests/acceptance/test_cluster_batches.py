"""Batch sessions in a cluster: whoever dies, they go on; without their node they begin again."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.batches import (
    notebook_in,
    printed_in,
    put_notebook,
    session,
    started,
    until_at,
    until_over,
)
from tests.acceptance.folders import put
from tests.acceptance.kernel_client import relay_of
from tests.acceptance.test_cluster import leftovers
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(240)

GATE = "import pathlib, time\nwhile not pathlib.Path('{}').exists(): time.sleep(0.05)"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(agent_lost_s=4.0) as made:
        yield made


async def test_it_goes_on_whoever_is_killed_but_its_node(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    session_id = await waiting_at_the_first_gate(server)
    server.signal(signal.SIGKILL)
    await server.wait()
    await agent.kill()
    for store in (cluster.etcd, cluster.redis):
        await asyncio.to_thread(store.kill)
        await store.up()
    await agent.start()  # first, or a slow machine takes it for lost
    await server.start()
    await put(server, "data/one", "")
    await until_at(server, session_id, 4)
    assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == ["2\n"]
    server.signal(signal.SIGKILL)
    await server.wait()
    await agent.kill()
    output = one_file(cluster, "nb.out.ipynb")
    output.with_name("two").touch()
    await eventually(lambda: is_done(output), within_s=60)  # all by itself
    await agent.start()
    await server.start()
    over = await until_over(server, session_id)
    assert (over["batch"]["end"], over["batch"]["attempt"]) == ("done", 1), over
    assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == ["2\n", "3\n"]
    await eventually(lambda: leftovers(agent) == [], within_s=30)


async def test_it_goes_on_when_the_database_or_the_relay_is_killed(cluster: Cluster) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    session_id = await waiting_at_the_first_gate(server)
    await cluster.postgres.stop(signal.SIGKILL)
    one_file(cluster, "nb.out.ipynb").with_name("one").touch()
    await eventually(lambda: has_printed(cluster, "2\n"), within_s=60)  # with no database
    await cluster.postgres.start()
    await until_at(server, session_id, 4)
    relay_of(agent).kill()
    await put(server, "data/two", "")
    over = await until_over(server, session_id)
    assert (over["batch"]["end"], over["batch"]["attempt"]) == ("done", 1), over
    assert printed_in(await notebook_in(server, "data/nb.out.ipynb")) == ["2\n", "3\n"]
    await eventually(lambda: leftovers(agent) == [], within_s=30)


async def test_with_its_agent_it_is_lost_and_tried_on_another(cluster: Cluster) -> None:
    first = await cluster.add_agent()
    server = await cluster.add_server()
    await put_notebook(
        server, "data/nb.ipynb", "print('begun')", GATE.format("gate"), "print('over')"
    )
    session_id = await started(server, notebook="data/nb.ipynb", retries=1)
    await until_at(server, session_id, 2)
    await first.kill()  # its container goes on, and must not win
    second = await cluster.add_agent()
    await eventually(lambda: is_on(server, session_id, second.name), within_s=60)
    await until_at(server, session_id, 2)
    await put(server, "data/gate", "")
    over = await until_over(server, session_id)
    assert (over["batch"]["end"], over["batch"]["attempt"]) == ("done", 2), over
    notebook = await notebook_in(server, "data/nb.out.ipynb")
    assert printed_in(notebook) == ["begun\n", "over\n"]
    assert notebook["metadata"]["backendai_batch"]["attempt"] == 2
    assert any("Attempt 1 of 2 ended: The agent" in step["reason"] for step in over["history"])
    await first.start()
    await eventually(lambda: leftovers(first) + leftovers(second) == [], within_s=30)


async def test_of_several_kernels_all_are_tried_again_on_another_agent(cluster: Cluster) -> None:
    first = await cluster.add_agent()
    server = await cluster.add_server()
    everywhere = "%%backendai all\nimport os; print(os.environ['BACKENDAI_CLUSTER_HOST'])"
    await put_notebook(server, "data/nb.ipynb", "1", GATE.format("gate"), everywhere)
    options = {"cluster_size": 2, "resources": {"cpu": 0.2, "mem": "256m"}}
    session_id = await started(server, options=options, notebook="data/nb.ipynb", retries=1)
    await until_at(server, session_id, 2)
    await first.kill()
    second = await cluster.add_agent()
    await eventually(lambda: are_on(server, session_id, second.name), within_s=60)
    await put(server, "data/gate", "")
    over = await until_over(server, session_id)
    assert (over["batch"]["end"], over["batch"]["attempt"]) == ("done", 2), over
    (printed,) = printed_in(await notebook_in(server, "data/nb.out.ipynb"))
    assert sorted(printed.splitlines()) == ["[main1] main1", "[sub1] sub1"]
    await first.start()
    await eventually(lambda: leftovers(first) + leftovers(second) == [], within_s=30)


async def waiting_at_the_first_gate(server: RunningServer) -> str:
    """Start a batch that waits twice, for the files ``one`` and ``two`` beside it."""
    await put_notebook(
        server,
        "data/nb.ipynb",
        *("x = 1", GATE.format("one"), "x += 1; print(x)"),
        *(GATE.format("two"), "x += 1; print(x)"),
    )
    session_id = await started(server, notebook="data/nb.ipynb")
    await until_at(server, session_id, 2)
    return session_id


async def is_on(server: RunningServer, session_id: str, agent: str) -> bool:
    (kernel,) = (await session(server, session_id))["kernels"]
    return bool(kernel["agent_id"] == agent and kernel["status"] == "RUNNING")


async def are_on(server: RunningServer, session_id: str, agent: str) -> bool:
    kernels = (await session(server, session_id))["kernels"]
    return all(k["agent_id"] == agent and k["status"] == "RUNNING" for k in kernels)


def one_file(cluster: Cluster, name: str) -> Path:
    """Return the one file of this name in any folder."""
    (found,) = cluster.vfroot.rglob(name)
    return found


def has_printed(cluster: Cluster, text: str) -> bool:
    return printed_in(json.loads(one_file(cluster, "nb.out.ipynb").read_text())) == [text]


def is_done(output: Path) -> bool:
    status = json.loads(output.read_text())["metadata"]["backendai_batch"]["status"]
    return bool(status == "done")
