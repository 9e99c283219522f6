"""The ``ClusterStore`` protocol against all its implementations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.protocols import Change, ClusterStore
from backendai_jupyter.errors import Conflict


@pytest.fixture(params=["memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ClusterStore]:
    yield {"memory": MemoryClusterStore}[request.param]()


async def take(store: ClusterStore, prefix: str, *, after: int, count: int) -> list[Change]:
    found: list[Change] = []
    async with asyncio.timeout(5), store.watch(prefix, after=after) as batches:
        async for batch in batches:
            found.extend(batch)
            if len(found) >= count:
                return found
    raise AssertionError("the watch ended by itself")


async def test_put_get_list_delete(store: ClusterStore) -> None:
    first = await store.put("a/1", "x")
    second = await store.put("a/2", "y")
    await store.put("b/1", "z")
    assert second > first
    entry = await store.get("a/1")
    assert entry is not None
    assert (entry.value, entry.revision) == ("x", first)
    assert [e.key for e in (await store.list("a/")).entries] == ["a/1", "a/2"]
    gone = await store.delete("a/1")
    assert gone > second
    assert await store.get("a/1") is None
    assert await store.delete("a/1") == gone  # nothing to delete, nothing changes


async def test_a_listing_tells_the_revision_to_watch_from(store: ClusterStore) -> None:
    await store.put("a/1", "x")
    listing = await store.list("a/")
    await store.put("a/1", "y")
    (change,) = await take(store, "a/", after=listing.revision, count=1)
    assert (change.key, change.value) == ("a/1", "y")


async def test_put_if_lets_exactly_one_of_many_through(store: ClusterStore) -> None:
    won = await asyncio.gather(*(store.put_if("lock", str(i), revision=0) for i in range(10)))
    assert won.count(True) == 1
    entry = await store.get("lock")
    assert entry is not None
    assert await store.put_if("lock", "next", revision=entry.revision)
    assert not await store.put_if("lock", "stale", revision=entry.revision)


async def test_a_watch_sees_changes_in_order_and_only_below_its_prefix(store: ClusterStore) -> None:
    start = (await store.list("a/")).revision
    watching = asyncio.ensure_future(take(store, "a/", after=start, count=3))
    await store.put("a/1", "x")
    await store.put("b/1", "other")
    await store.put("a/1", "y")
    await store.delete("a/1")
    changes = await watching
    assert [c.value for c in changes] == ["x", "y", None]
    assert [c.revision for c in changes] == sorted(c.revision for c in changes)


async def test_a_watch_from_a_forgotten_revision_is_refused() -> None:
    store = MemoryClusterStore(log_length=2)
    for value in "abcd":
        await store.put("k", value)
    with pytest.raises(Conflict, match="list and watch again"):
        async with store.watch("k", after=1):
            pass
