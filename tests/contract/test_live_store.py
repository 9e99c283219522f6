"""The ``LiveStore`` protocol against all its implementations."""

from __future__ import annotations

import asyncio

from backendai_jupyter.cluster.memory import MemoryLiveStore
from backendai_jupyter.cluster.protocols import LiveStore
from tests.contract.clock import SettableClock
from tests.helpers import eventually


async def test_put_get_list_delete(live: LiveStore) -> None:
    await live.put("reports/a", "1", ttl_s=10)
    await live.put("reports/b", "ß", ttl_s=10)
    await live.put("logs/a", "3", ttl_s=10)
    assert await live.get("reports/b") == "ß"
    assert await live.get("reports/c") is None
    assert await live.list("reports/") == {"reports/a": "1", "reports/b": "ß"}
    await live.delete("reports/b")
    await live.delete("reports/c")
    assert await live.list("reports/") == {"reports/a": "1"}


async def test_values_expire_unless_they_are_put_again(live: LiveStore) -> None:
    await live.put("reports/a", "1", ttl_s=0.05)
    await live.put("reports/b", "2", ttl_s=0.05)
    await live.put("reports/b", "2", ttl_s=60)

    async def has_expired() -> bool:
        return await live.get("reports/a") is None

    await eventually(has_expired)
    assert await live.list("reports/") == {"reports/b": "2"}


async def test_values_in_memory_expire_by_the_clock() -> None:
    clock = SettableClock()
    store = MemoryLiveStore(clock=clock)
    await store.put("reports/a", "1", ttl_s=10)
    await store.put("reports/b", "2", ttl_s=20)
    clock.now = 10
    assert await store.get("reports/a") is None
    assert await store.list("reports/") == {"reports/b": "2"}


async def test_a_prefix_is_no_pattern(live: LiveStore) -> None:
    for key in ("a*/1", "ab/1", "[a]/1", "a/1", "a?/1", "a\\/1"):
        await live.put(key, key, ttl_s=10)
    assert list(await live.list("a*/")) == ["a*/1"]
    assert list(await live.list("[a]/")) == ["[a]/1"]
    assert list(await live.list("a?/")) == ["a?/1"]
    assert list(await live.list("a\\/")) == ["a\\/1"]


async def test_messages_reach_those_who_listen_and_nobody_else(live: LiveStore) -> None:
    await live.publish("c", "lost")
    async with live.subscribe("c") as one, live.subscribe("c") as two, live.subscribe("d"):
        await live.publish("c", "hello")
        async with asyncio.timeout(30):
            assert await anext(one) == "hello"
            assert await anext(two) == "hello"


async def test_messages_arrive_in_order(live: LiveStore) -> None:
    async with live.subscribe("c") as messages:
        for number in range(50):
            await live.publish("c", str(number))
        async with asyncio.timeout(30):
            assert [await anext(messages) for _ in range(50)] == [str(n) for n in range(50)]


async def test_many_calls_at_once(live: LiveStore) -> None:
    await asyncio.gather(*(live.put(f"k/{i}", str(i), ttl_s=60) for i in range(300)))
    assert len(await live.list("k/")) == 300
