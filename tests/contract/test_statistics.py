"""Statistics on their way from agents to managers, over every live store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backendai_jupyter.agent.node import Node
from backendai_jupyter.agent.statistics.statistics import Statistics
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.cluster.stores import open_live_store
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.statistics import Statistics as Reader
from tests.helpers import eventually
from tests.services import RedisServer


def statistics_of(tmp_path: Path, live: LiveStore, agent_id: str = "a") -> Statistics:
    node = Node(tmp_path / "run", tmp_path, os.getuid(), os.getgid())
    settings = BackendAIAgent(statistics_s=0.1)
    return Statistics(agent_id, runtimes={}, node=node, settings=settings, live=live)


async def test_what_agents_publish_managers_read(tmp_path: Path, live: LiveStore) -> None:
    for agent_id in ("a", "b"):
        await statistics_of(tmp_path, live, agent_id).step()
    readings = await Reader(live).read(["a", "b", "c"])
    for agent_id in ("a", "b"):
        found, reason = readings.of_node(agent_id)
        assert reason == ""
        assert found is not None
        assert found.kernels_running == 0
        assert (found.memory_total_bytes or 0) > 0
    assert readings.of_node("c")[0] is None


async def test_statistics_expire(live: LiveStore) -> None:
    await live.put(
        keys.statistics("a"), '{"node": {"at": 1, "kernels_running": 0}, "kernels": {}}', ttl_s=0.2
    )

    async def has_expired() -> bool:
        return (await Reader(live).read(["a"])).of_node("a")[0] is None

    await eventually(has_expired)


async def test_redis_that_is_killed_is_the_reason_until_it_is_back(
    tmp_path: Path, redis: RedisServer, prefix: str
) -> None:
    async with open_live_store(redis.url(prefix)) as live:
        statistics = statistics_of(tmp_path, live)
        await statistics.step()
        redis.kill()
        with pytest.raises(Unavailable):
            await statistics.step()
        found, reason = (await Reader(live).read(["a"])).of_node("a")
        assert found is None
        assert f"Redis at 127.0.0.1:{redis.port} cannot be reached" in reason
        await redis.up()
        await statistics.step()
        assert (await Reader(live).read(["a"])).of_node("a")[1] == ""


async def test_nobody_waits_long_for_a_redis_that_hangs(redis: RedisServer, prefix: str) -> None:
    async with open_live_store(redis.url(prefix)) as live:
        redis.stop()
        try:
            readings = await Reader(live, within_s=0.2).read(["a"])
        finally:
            redis.go_on()
        assert readings.of_node("a") == (None, "The live store does not answer.")
