"""The ``LiveStore`` protocol against all its implementations."""

from __future__ import annotations

import asyncio

from backendai_jupyter.cluster.memory import MemoryLiveStore


class SettableClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_values_expire() -> None:
    clock = SettableClock()
    store = MemoryLiveStore(clock=clock)
    await store.put("reports/a", "1", ttl_s=10)
    await store.put("reports/b", "2", ttl_s=20)
    clock.now = 10
    assert await store.get("reports/a") is None
    assert await store.list("reports/") == {"reports/b": "2"}
    await store.delete("reports/b")
    assert await store.list("reports/") == {}


async def test_messages_reach_those_who_listen_and_nobody_else() -> None:
    store = MemoryLiveStore()
    await store.publish("c", "lost")
    async with store.subscribe("c") as one, store.subscribe("c") as two, store.subscribe("d"):
        await store.publish("c", "hello")
        async with asyncio.timeout(5):
            assert await anext(one) == "hello"
            assert await anext(two) == "hello"
