"""A notebook whose server reads the journal by TLS, as from another machine."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import Clients, printed, relay_of
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINES = 2_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config="c.BackendAIAgent.runtime = 'process'\n") as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


def run_root(server: RunningServer) -> Path:
    (facts,) = server.root.glob("data/**/server/facts.json")
    return Path(json.loads(facts.read_text())["run_root"])


def put_another_in_place_of(directory: Path) -> None:
    """Let the path lead to another directory, as it does on another machine.

    What is in it stays the same, for in this test the agent is on this one.
    """
    other = directory.with_name(f"{directory.name}x")
    other.mkdir(mode=0o700)
    for entry in directory.iterdir():
        entry.rename(other / entry.name)
    directory.rmdir()
    other.rename(directory)


def far_readers(server: RunningServer) -> int:
    """Return how many connections the relay's door has."""
    (port,) = json.loads((run_root(server) / "relay.ports").read_text()).values()
    connections = relay_of(server).net_connections("tcp")
    return sum(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for connection in connections
    )


async def test_a_notebook_runs_whose_journal_is_on_another_machine(server: RunningServer) -> None:
    async with Clients.of_new_kernel(server) as clients:
        assert far_readers(server) == 0  # whoever is on the relay's machine uses its socket
        put_another_in_place_of(run_root(server))
        client = await clients.open()
        await eventually(lambda: far_readers(server) == 1)
        messages = await client.run(f"for number in range({LINES}): print(number, flush=True)")
        assert printed(messages).split() == [str(number) for number in range(LINES)]
        assert printed(await client.run("print(6 * 7)")) == "42\n"

        relay_of(server).kill()  # the agent's next report says where its successor is
        assert printed(await client.run("print('still here')")) == "still here\n"
