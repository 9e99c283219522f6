"""Sample notebooks of several kernels compute on two nodes, each with a Docker engine."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio

from tests.acceptance.cluster_remains import nothing_left
from tests.acceptance.test_cluster import sessions
from tests.acceptance.test_examples import EXAMPLES, KERNELSPEC, text_of
from tests.nodes import Nodes
from tests.server import private_directories

RUN_WITHIN_S = 150.0
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(RUN_WITHIN_S + 60, func_only=True),
]
HOSTS = ("main1", "sub1", "sub2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    """Neither node has room for three kernels."""
    async with Nodes(managers=1, agent_lost_s=8.0, swarm=True, cpu_overcommit=1.0) as made:
        yield made


async def test_dask_computes_on_all_members_over_two_nodes(nodes: Nodes) -> None:
    printed = text_of(await run(nodes, "05-dask-on-three-kernels.ipynb"))
    for rank, host in enumerate(HOSTS):
        assert f"[{host}] {host} has rank {rank}" in printed
        assert f"[{host}] worker ended with 0" in printed
    assert "workers: main1 sub1 sub2" in printed
    assert "computed on: main1 sub1 sub2" in printed
    assert re.search(r"mean ride: 2\.\d\d km, 95 % between 2\.\d\d and 2\.\d\d km", printed)
    await assert_was_on_two_nodes(nodes)


async def test_an_all_reduce_over_two_nodes_finds_what_one_machine_finds(nodes: Nodes) -> None:
    printed = text_of(await run(nodes, "06-all-reduce.ipynb"))
    (expected,) = re.findall(r"^at once: (.*)$", printed, re.MULTILINE)
    places = re.findall(r"^rank (\d) on (\w+) with 205 of 615 rides: (.*)$", printed, re.MULTILINE)
    assert places == [(str(rank), host, expected) for rank, host in enumerate(HOSTS)], printed
    await assert_was_on_two_nodes(nodes)


async def run(nodes: Nodes, name: str) -> nbformat.NotebookNode:
    """Run a notebook as ``jupyter execute`` does, and return what came out."""
    (server,) = nodes.servers
    place = Path(nodes.cluster.root) / name.removesuffix(".ipynb")
    shutil.copytree(EXAMPLES, place)
    command = ["-m", "jupyter", "execute", f"--kernel_name={KERNELSPEC}", "--output=out.ipynb"]
    own = {**private_directories(server.root), "BACKENDAI_CLUSTER_MODE": "multi-node"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, name),
        env={**os.environ, **own},
        cwd=place,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_WITHIN_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.terminate()
        said, _ = await process.communicate()
        raise AssertionError(f"not done within {RUN_WITHIN_S} s:\n{said.decode()}") from None
    assert process.returncode == 0, said.decode()
    notebook: nbformat.NotebookNode = nbformat.reads(
        (place / "out.ipynb").read_text(), as_version=4
    )
    return notebook


async def assert_was_on_two_nodes(nodes: Nodes) -> None:
    (server,) = nodes.servers
    last, *_ = sorted(await sessions(server), key=lambda one: str(one["created_at"]), reverse=True)
    assert {kernel["agent_id"] for kernel in last["kernels"]} == {n.name for n in nodes.nodes}
    await nothing_left(nodes)
