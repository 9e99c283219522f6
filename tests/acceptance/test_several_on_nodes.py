"""Sessions of several kernels over two nodes with a Docker engine each, through a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.test_managers import run
from tests.helpers import eventually
from tests.nodes import Nodes
from tests.orders import remains

pytestmark = [
    pytest.mark.docker,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180, func_only=True),
]

ASKED = {"resources": {"cpu": 1, "mem": "256m"}}
LISTENS = ["python", "-m", "http.server", "8000", "--directory", "/home/work"]
FETCH = """
import os, urllib.request
for host in os.environ["BACKENDAI_CLUSTER_HOSTS"].split(","):
    while True:
        try:
            urllib.request.urlopen(f"http://{host}:8000/", timeout=5).read()
        except OSError:
            continue
        break
    print(host)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    async with Nodes(managers=1, agent_lost_s=60.0, swarm=True, stop_grace_s=0.5) as opened:
        yield opened


async def start(nodes: Nodes, **options: object) -> dict[str, Any]:
    (server,) = nodes.servers
    body = {"name": "backendai-python", "backendai": {**ASKED, **options}}
    answer = await server.post("api/kernels", json=body)
    assert answer.status_code == 201, (answer.text, server.log)
    return await read(nodes, answer.json()["backendai"]["session_id"])


async def read(nodes: Nodes, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        await nodes.servers[0].get(f"backendai/v1/sessions/{session_id}")
    ).json()
    return found


@pytest.mark.parametrize(
    ("mode", "hosts", "agents"),
    [("single-node", ["main1", "sub1"], 1), ("multi-node", ["main1", "sub1", "sub2"], 2)],
)
async def test_all_kernels_reach_each_other_and_leave_nothing(
    nodes: Nodes, mode: str, hosts: list[str], agents: int
) -> None:
    (server,) = nodes.servers
    before = [remains(node) for node in nodes.nodes]
    startup = {"main": LISTENS, "sub": LISTENS}
    session = await start(nodes, cluster_size=len(hosts), cluster_mode=mode, startup=startup)
    assert len({kernel["agent_id"] for kernel in session["kernels"]}) == agents
    all_of_them = "".join(f"{host}\n" for host in hosts)
    for kernel in session["kernels"]:
        assert await run(server, kernel["id"], FETCH) == all_of_them
    main = session["kernels"][0]["id"]
    assert (await server.post(f"api/kernels/{main}/restart")).status_code == 200
    assert await run(server, session["kernels"][1]["id"], FETCH) == all_of_them
    assert (await server.delete(f"api/kernels/{main}")).status_code == 204

    async def is_over() -> bool:
        return (await read(nodes, session["id"]))["ended_at"] is not None

    await eventually(is_over, within_s=60)
    for node, had in zip(nodes.nodes, before, strict=True):
        networks = {one for one in remains(node) if one.startswith("network")}
        assert networks <= {one for one in had if one.startswith("network")}
