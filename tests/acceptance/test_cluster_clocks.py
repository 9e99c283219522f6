"""The clock of a machine is set, forwards and backwards, while a notebook computes: nothing."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.kernel_client import printed
from tests.acceptance.test_cluster import is_alive, leftovers, run, sessions, started
from tests.acceptance.test_cluster_faults import COMPUTES, TICKS
from tests.acceptance.test_node_faults import opened, shows
from tests.cluster import Cluster
from tests.helpers import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

FAKETIME = "libfaketimeMT.so.1"
# With a clock that never jumps beside it, libfaketime 0.9.10 refuses Python's way to sleep.
_SLEEPS = "import select, time\ntime.sleep = lambda s: select.select((), (), (), s) and None\n"
AN_HOUR = ["+3600", "-3600"]


class SetClock:
    """The time of day of the processes that are started with ``env``."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path / "offset"
        self.set("+0")
        (path / "sitecustomize.py").write_text(_SLEEPS)
        self.env = {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }

    def set(self, offset: str) -> None:
        """Set it to the real time and so many seconds."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(offset)
        partial.rename(self._path)


def _library() -> str:
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"))
    if not found:
        pytest.skip("there is no libfaketime here: apt-get install faketime")
    return str(found[0])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SetClock]:
    root = tmp_path_factory.mktemp("clocks")
    return {name: SetClock(root / name) for name in ("agent", "manager")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(clocks: dict[str, SetClock]) -> AsyncIterator[Cluster]:
    async with Cluster(agent_lost_s=3.0) as made:
        await made.add_agent(env=clocks["agent"].env)
        await made.add_server(env=clocks["manager"].env)
        yield made


@pytest.mark.parametrize("whose", ["agent", "manager"])
@pytest.mark.parametrize("offset", AN_HOUR)
async def test_a_clock_that_is_set_costs_nothing(
    cluster: Cluster, clocks: dict[str, SetClock], whose: str, offset: str
) -> None:
    server, (agent,) = cluster.servers[0], cluster.agents
    before = len(server.log), len(agent.log)
    kernel_id = await started(server)
    async with opened(server, kernel_id) as client:
        request = await client.execute(COMPUTES)
        messages = await client.until(shows("<4>"))
        clocks[whose].set(offset)
        another = await started(server)
        messages += await client.until_done(request)
    if whose == "manager":
        made_at = next(s["created_at"] for s in await sessions(server) if s["id"] == another)
        assert made_at == pytest.approx(time.time() + float(offset), abs=60)
    assert printed(messages) == "".join(f"<{n}>\n" for n in range(TICKS))
    assert await run(server, another, "print(1)") == "1\n"
    assert await is_alive(server, agent)
    clocks[whose].set("+0")
    assert await run(server, kernel_id, "print(x)") == f"{TICKS - 1}\n"
    said = server.log[before[0] :] + agent.log[before[1] :]
    assert "leads no longer" not in said
    assert "has run out" not in said
    for one in (kernel_id, another):
        assert (await server.delete(f"api/kernels/{one}")).status_code == 204
    await eventually(lambda: leftovers(agent) == [], within_s=30)
    assert {one["status"] for one in await sessions(server)} == {"TERMINATED"}
