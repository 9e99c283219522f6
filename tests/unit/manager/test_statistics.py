"""What a manager says of statistics: numbers, or why there are none."""

from __future__ import annotations

import asyncio

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.memory import MemoryLiveStore
from backendai_jupyter.domain.statistics import AgentStatistics, KernelStatistics, NodeStatistics
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.statistics import Statistics

NODE = NodeStatistics(at=1, kernels_running=1)
KERNEL = KernelStatistics(generation=2, at=1, cpu_used_s=3)


class LiveStoreThatIsAway(MemoryLiveStore):
    async def get(self, key: str) -> str | None:
        raise Unavailable("Redis at here:1 cannot be reached")


class LiveStoreThatHangs(MemoryLiveStore):
    async def get(self, key: str) -> str | None:
        await asyncio.Event().wait()
        return None


async def published(text: str | None = None) -> MemoryLiveStore:
    live = MemoryLiveStore()
    said = text or AgentStatistics(node=NODE, kernels={"k": KERNEL}).model_dump_json()
    await live.put(keys.statistics("a"), said, ttl_s=60)
    return live


async def test_what_was_published_is_read() -> None:
    readings = await Statistics(await published()).read(["a", "a", "b"])
    assert readings.of_node("a") == (NODE, "")
    assert readings.of_kernel("k", 2, "a") == (KERNEL, "")


async def test_what_is_missing_has_a_reason() -> None:
    readings = await Statistics(await published()).read(["a", "b"])
    silent = "The agent b has published none for a while."
    assert readings.of_node("b") == (None, silent)
    assert readings.of_kernel("k", 2, "b") == (None, silent)
    assert readings.of_kernel("k", 2, None) == (None, "It runs nowhere.")
    unmeasured = (None, "Its agent a has not measured it yet.")
    assert readings.of_kernel("other", 1, "a") == unmeasured


async def test_the_program_before_a_restart_is_another_one() -> None:
    readings = await Statistics(await published()).read(["a"])
    assert readings.of_kernel("k", 3, "a") == (None, "Its agent a has not measured it yet.")


async def test_a_live_store_that_is_away_is_the_reason() -> None:
    readings = await Statistics(LiveStoreThatIsAway()).read(["a"])
    assert readings.of_node("a") == (None, "Redis at here:1 cannot be reached.")


async def test_nobody_waits_for_a_live_store_that_hangs() -> None:
    readings = await Statistics(LiveStoreThatHangs(), within_s=0.05).read(["a"])
    assert readings.of_kernel("k", 1, "a") == (None, "The live store does not answer.")


async def test_what_is_not_understood_is_nothing_and_a_newer_agents_field_is_ignored() -> None:
    readings = await Statistics(await published('{"node": 1}')).read(["a"])
    assert readings.of_node("a")[0] is None
    newer = '{"node": {"at": 1, "kernels_running": 1, "new": 1}, "kernels": {}, "new": 2}'
    readings = await Statistics(await published(newer)).read(["a"])
    assert readings.of_node("a") == (NODE, "")
