"""Whatever dies or hangs, at whichever step: nothing is left behind, nothing stays stuck.

Each test holds a server at one named step (backendai_jupyter/points.py) of something that is
done to a kernel, kills or stops one or two processes there, brings back a server that died,
uses the kernels that it lists and ends them; then nothing may be left, and the histories must
tell the truth.  Which step and which process a fixed seed decides.

``BACKENDAI_CRASHES`` is how many are tried with kernels in sandboxes and the smallest server (of
some hundreds of combinations; 300 take 20 minutes), ``BACKENDAI_CRASHES_JUPYTER`` with a whole
Jupyter Server, ``BACKENDAI_CRASHES_DOCKER`` with containers and ``BACKENDAI_CRASHES_BATCH`` with
kernels of a batch run, which end with it; ``BACKENDAI_CRASH_SEED`` makes it others.  At the end
a table shows what users saw.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.crash_plans import Plan, plans
from tests.acceptance.crash_play import Interleaving
from tests.acceptance.crash_points import Points
from tests.acceptance.crash_remains import defects_in
from tests.acceptance.crash_rig import Driver, JupyterServer, Server, end_all
from tests.engine import PrivateEngine

COUNT = int(os.environ.get("BACKENDAI_CRASHES", "16"))
WITH_JUPYTER = int(os.environ.get("BACKENDAI_CRASHES_JUPYTER", "2"))
WITH_DOCKER = int(os.environ.get("BACKENDAI_CRASHES_DOCKER", "3"))
OF_BATCH_RUNS = int(os.environ.get("BACKENDAI_CRASHES_BATCH", "3"))
SEED = int(os.environ.get("BACKENDAI_CRASH_SEED", "20261125"))

Table = dict[tuple[str, str], Counter[str]]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """What users saw, by operation and blow; shown at the end."""
    seen: Table = defaultdict(Counter)
    yield seen
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        show = plugins.getplugin("terminalreporter").write_line
        show("")
        for (operation, blow), counts in sorted(seen.items()):
            told = ", ".join(f"{what} {n}" for what, n in sorted(counts.items()))
            show(f"{operation:10} {blow:28} runs {counts.total():3}: {told}")


@pytest.mark.parametrize("plan", plans(COUNT, SEED), ids=str)
async def test_nothing_is_left_or_stuck(plan: Plan, short_tmp_path: Path, table: Table) -> None:
    server = Driver(short_tmp_path, short_tmp_path / "points", {"runtime": "process"})
    await play(plan, server, table)


# Of a server that begins, its log is all that is seen; the smaller one is killed there, too.
@pytest.mark.parametrize("plan", plans(WITH_JUPYTER, SEED, without=["recovery"]), ids=str)
async def test_nothing_is_left_or_stuck_of_a_jupyter_server(
    plan: Plan, short_tmp_path: Path, table: Table
) -> None:
    server = JupyterServer(short_tmp_path, short_tmp_path / "points", {"runtime": "process"})
    await play(plan, server, table)


@pytest.mark.parametrize("plan", plans(WITH_DOCKER, SEED, runtime="docker"), ids=str)
async def test_nothing_is_left_or_stuck_in_an_engine(
    plan: Plan, engine: PrivateEngine, short_tmp_path: Path, table: Table
) -> None:
    agent = {"runtime": "docker", "docker_url": engine.url}
    server = Driver(short_tmp_path, short_tmp_path / "points", agent)
    await play(plan, server, table, engine)


@pytest.mark.parametrize("plan", plans(OF_BATCH_RUNS, SEED, without=["recovery", "stop"]), ids=str)
async def test_nothing_is_left_of_a_batch_run(
    plan: Plan, short_tmp_path: Path, table: Table
) -> None:
    agent = {"runtime": "process"}
    server = Driver(short_tmp_path, short_tmp_path / "points", agent, "batch")
    await play(plan, server, table, is_batch_run=True)


async def play(
    plan: Plan,
    server: Server,
    table: Table,
    engine: PrivateEngine | None = None,
    *,
    is_batch_run: bool = False,
) -> None:
    async with Points.listen(server.root / "points") as points:
        interleaving = Interleaving(plan, server, points, engine, is_batch_run=is_batch_run)
        try:
            outcome = await interleaving.play()
            left = await interleaving.end()
            assert (left, defects_in(server.log)) == ([], [])
        except BaseException:
            sys.stderr.write(server.log[-20000:])  # pytest shows it with the failure
            raise
        finally:
            await server.close()
            end_all(server.root)
    table[plan.operation, "+".join(sorted(str(blow) for blow in plan.blows))][outcome] += 1
