"""A batch run as a manager of a cluster: its kernel goes with it, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import nbformat
import pytest

from backendai_jupyter.manager.batch import REASON
from tests.acceptance.test_cluster import leftovers, sessions
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer, private_directories

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(agent_lost_s=3.0) as made:
        yield made


ENDS = {signal.SIGKILL: REASON, signal.SIGTERM: "Its owner shut it down."}


@pytest.mark.parametrize(("signum", "reason"), ENDS.items())
async def test_a_batch_run_that_is_killed_leaves_no_kernel(
    cluster: Cluster, signum: signal.Signals, reason: str
) -> None:
    agent = await cluster.add_agent()
    server = await cluster.add_server()
    async with batch_run(cluster, server, "while True: pass") as process:
        await eventually(lambda: is_at(server, "RUNNING"), within_s=60)
        process.send_signal(signum)
        await process.wait()
    await eventually(lambda: is_at(server, "TERMINATED"), within_s=60)
    (session,) = await sessions(server)
    assert session["status_reason"] == reason
    await eventually(lambda: leftovers(agent) == [], within_s=30)


async def test_a_batch_run_outlives_an_outage_of_etcd(cluster: Cluster) -> None:
    """Nobody is judged while the store is away, and claims are made again after it."""
    await cluster.add_agent()
    server = await cluster.add_server()
    gate = "import pathlib, time\nwhile not pathlib.Path('gate').exists(): time.sleep(0.01)"
    async with batch_run(cluster, server, gate) as process:
        await eventually(lambda: is_at(server, "RUNNING"), within_s=60)
        await asyncio.to_thread(cluster.etcd.kill)
        waited = asyncio.get_running_loop().time() + 15  # longer than the lease and the grace
        await eventually(lambda: asyncio.get_running_loop().time() > waited, within_s=20)
        await cluster.etcd.up()
        await eventually(lambda: has_led_again(server), within_s=60)
        (cluster.root / "batch" / "gate").touch()
        async with asyncio.timeout(60):
            assert await process.wait() == 0


@contextlib.asynccontextmanager
async def batch_run(
    cluster: Cluster, server: RunningServer, code: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``code`` as ``jupyter execute`` does."""
    place = cluster.root / "batch"  # its working directory, which its kernel sees
    place.mkdir(mode=0o755)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    (place / "batch.ipynb").write_text(nbformat.writes(notebook))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter", "execute", "--kernel_name=backendai-python"),
        "batch.ipynb",
        env={**os.environ, **private_directories(server.root)},
        cwd=place,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def is_at(server: RunningServer, status: str) -> bool:
    return [session["status"] for session in await sessions(server)] == [status]


async def has_led_again(server: RunningServer) -> bool:
    """Whether somebody leads again, and with it all that only a leader does."""
    answer = await server.post("api/kernels", json={"name": "backendai-python"})
    return answer.status_code == 201
