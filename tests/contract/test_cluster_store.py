"""The ``ClusterStore`` protocol against all its implementations."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.protocols import MAX_AT_ONCE, Change, ClusterStore
from backendai_jupyter.errors import Conflict
from tests.contract.clock import SettableClock


async def take(store: ClusterStore, prefix: str, *, after: int, count: int) -> list[Change]:
    found: list[Change] = []
    async with asyncio.timeout(10), store.watch(prefix, after=after) as batches:
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


async def test_what_is_put_together_is_one_revision_and_seen_together(store: ClusterStore) -> None:
    start = await store.put("a/0", "old")
    values = {f"a/{number}": str(number) for number in range(MAX_AT_ONCE)}
    async with asyncio.timeout(10), store.watch("a/", after=start) as batches:
        revision = await store.put_all(values)
        batch = await anext(batches)
    assert {change.key: change.value for change in batch} == values
    assert {change.revision for change in batch} == {revision}
    listing = await store.list("a/")
    assert {entry.key: entry.value for entry in listing.entries} == values
    assert (listing.revision, {entry.revision for entry in listing.entries}) == (
        revision,
        {revision},
    )
    assert await store.put_all({}) == revision


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


async def test_a_watch_begins_after_any_revision_that_is_remembered(store: ClusterStore) -> None:
    revisions = [await store.put("a/1", value) for value in "abc"]
    changes = await take(store, "a/", after=revisions[0], count=2)
    assert [(c.value, c.revision) for c in changes] == [("b", revisions[1]), ("c", revisions[2])]


async def test_a_watch_misses_nothing_of_what_many_write_at_once(store: ClusterStore) -> None:
    start = (await store.list("a/")).revision
    watching = asyncio.ensure_future(take(store, "a/", after=start, count=200))
    await asyncio.gather(*(store.put(f"a/{i}", str(i)) for i in range(200)))
    changes = await watching
    assert {c.key for c in changes} == {f"a/{i}" for i in range(200)}
    assert [c.revision for c in changes] == sorted(c.revision for c in changes)


async def test_delete_if_deletes_only_what_has_not_changed(store: ClusterStore) -> None:
    assert not await store.delete_if("k", revision=0)
    old = await store.put("k", "1")
    new = await store.put("k", "2")
    assert not await store.delete_if("k", revision=old)
    assert await store.delete_if("k", revision=new)
    assert await store.get("k") is None
    assert await store.put_if("k", "again", revision=0)


async def test_keys_and_values_are_any_text(store: ClusterStore) -> None:
    await store.put("Küche/é*[x]/", "ß\n\0")
    (entry,) = (await store.list("Küche/")).entries
    assert (entry.key, entry.value) == ("Küche/é*[x]/", "ß\n\0")


async def test_the_keys_of_a_lease_go_with_it_and_watchers_see_that(store: ClusterStore) -> None:
    async with store.lease(10) as lease:
        assert lease.alive
        await store.put("a/1", "x", lease=lease)
        assert await store.put_if("a/2", "y", revision=0, lease=lease)
        last = await store.put("a/3", "stays")
    assert not lease.alive
    async with asyncio.timeout(30):
        await lease.lost()
    assert [e.key for e in (await store.list("a/")).entries] == ["a/3"]
    changes = await take(store, "a/", after=last, count=2)
    assert sorted((c.key, c.value) for c in changes) == [("a/1", None), ("a/2", None)]


async def test_a_key_that_is_put_again_without_its_lease_stays(store: ClusterStore) -> None:
    async with store.lease(10) as lease:
        await store.put("k", "1", lease=lease)
        await store.put("k", "2")
    assert await store.get("k") is not None


async def test_a_key_that_is_deleted_and_made_again_is_none_of_the_lease(
    store: ClusterStore,
) -> None:
    async with store.lease(10) as lease:
        await store.put("k", "1", lease=lease)
        await store.delete("k")
        await store.put("k", "2")
    assert await store.get("k") is not None


async def test_nothing_can_be_put_under_a_lease_that_is_over(store: ClusterStore) -> None:
    async with store.lease(10) as lease:
        pass
    with pytest.raises(Conflict, match="take another one"):
        await store.put("k", "1", lease=lease)
    with pytest.raises(Conflict, match="take another one"):
        await store.put_if("k", "1", revision=0, lease=lease)
    assert await store.get("k") is None


async def test_a_lease_outlives_its_time_while_it_is_kept(store: ClusterStore) -> None:
    async with store.lease(2) as lease:
        await store.put("k", "1", lease=lease)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await lease.lost()
        assert lease.alive
        assert await store.get("k") is not None


async def test_a_watch_from_a_forgotten_revision_is_refused() -> None:
    store = MemoryClusterStore(log_length=2)
    for value in "abcd":
        await store.put("k", value)
    with pytest.raises(Conflict, match="list and watch again"):
        await take(store, "k", after=1, count=1)


async def test_a_revision_that_is_forgotten_in_part_is_forgotten() -> None:
    store = MemoryClusterStore(log_length=2)
    start = await store.put("k", "before")
    await store.put_all({"a": "1", "b": "2", "c": "3"})
    with pytest.raises(Conflict, match="list and watch again"):
        await take(store, "", after=start, count=2)


async def test_a_lease_in_memory_that_was_not_kept_in_time_is_lost() -> None:
    clock = SettableClock()
    store = MemoryClusterStore(clock=clock)
    async with store.lease(10) as lease:
        revision = await store.put("k", "1", lease=lease)
        clock.now = 10
        assert not lease.alive
        assert await store.get("k") is None
        async with asyncio.timeout(30):
            await lease.lost()
        (change,) = await take(store, "k", after=revision, count=1)
        assert change.value is None
        with pytest.raises(Conflict, match="take another one"):
            await store.put("k", "1", lease=lease)
