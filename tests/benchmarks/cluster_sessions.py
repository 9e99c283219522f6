"""What sessions of several kernels cost and leave: ``python -m tests.benchmarks.cluster_sessions``.

Two nodes with a Docker engine each, one swarm, and this program as their manager, as in
``tests/orders.py``.  A session of three kernels is started and ended again and again, on one node
and over both.  Its programs are light ones, so that the time of a start is that of networks,
containers and reports.  Then the same for processes of this machine in sandboxes.  At the end it
counts what is there that was not there before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import ClusterMode, Image
from tests.benchmarks.relay import say
from tests.helpers import eventually
from tests.nodes import Node, Nodes
from tests.orders import Orders, remains
from tests.siblings import members

KERNELS = 3
SLEEPS = ("python", "-c", "import time\nwhile True: time.sleep(60)")
LEFT_WITHIN_S = 60.0


async def containers(rounds: int) -> int:
    """Return how many things are left after so many rounds of both modes."""
    nodes = Nodes(managers=0, agent_lost_s=600.0, swarm=True, stop_grace_s=0.2)
    async with nodes, Orders.over(nodes) as orders:
        one, other = nodes.nodes
        kinds = (
            (ClusterMode.MULTI_NODE, [one, other, other]),
            (ClusterMode.SINGLE_NODE, [other] * KERNELS),
        )
        await run_once(orders, *kinds[0])  # an engine keeps what it makes for its first overlay
        before = [remains(node) for node in nodes.nodes]
        for mode, places in kinds:
            starts, ends = [], []
            for _ in range(rounds):
                start_s, end_s = await run_once(orders, mode, places)
                starts.append(start_s)
                ends.append(end_s)
            say(f"{mode}, {KERNELS} kernels, start {spread(starts)}, end {spread(ends)}")
        left = await settled(nodes.nodes, before)
    for words in sorted(left):
        say(f"  left: {words}")
    return len(left)


async def run_once(
    orders: Orders, mode: ClusterMode, places: Sequence[Node]
) -> tuple[float, float]:
    """Return how long the start and the end of a session took."""
    begun = time.monotonic()
    session = await orders.order(places, mode)
    await orders.until_running(session)
    started = time.monotonic()
    await orders.end(session)
    return started - begun, time.monotonic() - started


async def settled(nodes: Sequence[Node], before: Sequence[set[str]]) -> set[str]:
    """Return what is left once nothing goes any more."""
    left: set[str] = set()

    def is_clean() -> bool:
        left.clear()
        for node, had in zip(nodes, before, strict=True):
            left.update(f"{node.name}: {one}" for one in remains(node) - had)
        return not left

    try:
        await eventually(is_clean, within_s=LEFT_WITHIN_S)
    except AssertionError:
        say(f"not everything has gone within {LEFT_WITHIN_S:.0f} s")
    return left


async def processes(rounds: int) -> int:
    """The same of sandboxed processes; what is left would be addresses and directories."""
    with tempfile.TemporaryDirectory(prefix="bj-sessions-") as name:
        root = Path(name)
        os.chmod(root, 0o755)  # noqa: PTH101 - for a kernel, who is another user
        runtime = ProcessRuntime(root / "r")
        await runtime.open()
        starts, ends = [], []
        for number in range(rounds):
            specs = [spec(root, number, host) for host in members(KERNELS)]
            begun = time.monotonic()
            await runtime.networks.open(specs[0].session_id, members(KERNELS)["main1"])
            await asyncio.gather(*map(runtime.start, specs))
            started = time.monotonic()
            await asyncio.gather(*(runtime.stop(one.kernel_id, grace_s=0) for one in specs))
            await runtime.networks.close(specs[0].session_id)
            starts.append(started - begun)
            ends.append(time.monotonic() - started)
        say(f"processes, {KERNELS} kernels, start {spread(starts)}, end {spread(ends)}")
        left = [*await runtime.networks.sessions(), *(root / "r").iterdir()]
        await runtime.close()
    return len(left)


def spec(root: Path, number: int, host: str) -> ContainerSpec:
    uid, gid = kernel_identity(1000)
    run_dir, home_dir = root / f"{host}-run", root / f"{host}-home"
    for path in (run_dir, home_dir):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, uid, gid)
    return ContainerSpec(
        kernel_id=f"{number}-{host}",
        session_id=f"s{number}",
        generation=1,
        image=Image(name="python", reference="", runtime="process"),
        argv=SLEEPS,
        env={},
        limits=Slots.parse({"cpu": "1", "mem": "64m"}),
        mounts=(),
        workdir="/home/work",
        run_dir=run_dir,
        home_dir=home_dir,
        uid=uid,
        gid=gid,
        hostname=host,
        membership=members(KERNELS)[host],
    )


def spread(seconds: Sequence[float]) -> str:
    middle, longest = statistics.median(seconds), max(seconds)
    return f"{middle:.2f} s ({min(seconds):.2f} to {longest:.2f})"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind")
    rounds = parser.parse_args().rounds
    left = {"containers": await containers(rounds), "processes": await processes(rounds)}
    for kind, count in left.items():
        say(f"left by {kind} after {rounds} rounds of each mode: {count}")


if __name__ == "__main__":
    asyncio.run(main())
