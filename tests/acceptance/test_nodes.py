"""A cluster of two machines with a Docker engine each, and two managers beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio
from traitlets.config import Config

from backendai_jupyter.cli.cluster import live_restore
from backendai_jupyter.cli.findings import Settings, State
from tests.acceptance.cluster_remains import nothing_left
from tests.acceptance.folders import make_folder, read
from tests.acceptance.test_cluster import run, sessions, started
from tests.helpers import eventually
from tests.nodes import Nodes
from tests.server import RunningServer

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240, func_only=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    async with Nodes(agent_lost_s=8.0) as made:
        yield made


async def test_kernels_of_both_nodes_compute_through_both_managers(nodes: Nodes) -> None:
    one, other = nodes.servers
    kernel_ids = [await started(one), await started(other)]
    placed = {s["kernels"][0]["agent_id"] for s in await sessions(one)}
    assert placed == {node.name for node in nodes.nodes}
    assert [len(node.containers()) for node in nodes.nodes] == [1, 1]
    for kernel_id in kernel_ids:
        assert await run(one, kernel_id, "x = 6") == ""
        assert await run(other, kernel_id, "print(x * 7)") == "42\n"
    await nothing_left(nodes)


async def test_folders_are_the_same_on_both_nodes_and_appear_in_what_runs(nodes: Nodes) -> None:
    one, other = nodes.servers
    folder = await make_folder(one)
    kernel_ids = [await started(one), await started(other)]
    late = await make_folder(other)
    for name in (folder, late):
        path = f"/home/work/{name}/{name}.txt"
        for number, kernel_id in enumerate(kernel_ids):
            await eventually(partial(has_directory, one, kernel_id, path), within_s=20)
            await run(other, kernel_id, f"open({path!r}, 'a').write('{number}')")
        assert await read(one, f"{name}/{name}.txt") == "01"
        for kernel_id in kernel_ids:
            assert await run(one, kernel_id, f"print(open({path!r}).read())") == "01\n"
    await nothing_left(nodes)


async def test_doctor_says_where_kernels_do_not_survive_their_engine(nodes: Nodes) -> None:
    states = []
    for node in nodes.nodes:
        config = Config()
        config.BackendAIAgent.docker_url = node.engine.url
        for is_agent in (True, False):
            found = await live_restore(Settings.of(config, is_agent=is_agent))
            states.append((found.state, bool(found.advice)))
    sound, doubtful = (State.OK, False), (State.WARN, True)
    assert states == [sound, sound, doubtful, sound]


async def has_directory(server: RunningServer, kernel_id: str, path: str) -> bool:
    """Whether a kernel sees the folder that a path is in as a mount of its own."""
    code = f"import os; print(os.path.ismount(os.path.dirname({path!r})))"
    return await run(server, kernel_id, code) == "True\n"
