"""``%%backendai`` in a session of processes of one machine, as a client of a server has it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.test_several_kernels import CONFIG, run, start
from tests.server import RunningServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

HOSTS = ("main1", "sub1", "sub2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="bj-") as root:
        async with RunningServer(Path(root), config=CONFIG) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(server: RunningServer) -> dict[str, Any]:
    return await start(server, cluster_size=3)


async def test_a_cell_runs_on_every_kernel(server: RunningServer, session: dict[str, Any]) -> None:
    main, *_ = (kernel["id"] for kernel in session["kernels"])
    code = "import os; print(os.environ['BACKENDAI_CLUSTER_HOST'])"
    said = await run(server, main, f"%%backendai all\n{code}")
    assert sorted(said.splitlines()) == [f"[{host}] {host}" for host in HOSTS]


async def test_a_sub_that_was_restarted_takes_part_again(
    server: RunningServer, session: dict[str, Any]
) -> None:
    main, sub, _ = (kernel["id"] for kernel in session["kernels"])
    await run(server, main, "%%backendai sub1\nkept = 1")
    assert (await server.post(f"api/kernels/{sub}/restart")).status_code == 200
    said = await run(server, main, "%%backendai sub1\nprint('kept' in globals())")
    assert said == "[sub1] False\n"


async def test_a_flood_comes_whole_while_the_relay_takes_it_too(
    server: RunningServer, session: dict[str, Any]
) -> None:
    main, *_ = (kernel["id"] for kernel in session["kernels"])
    code = "for number in range(10000): print(number, 'x' * 1000)"
    said = await run(server, main, f"%%backendai sub2\n{code}")
    assert [line.split()[1] for line in said.splitlines()] == [str(n) for n in range(10000)]
