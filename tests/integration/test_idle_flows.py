"""Connections that a middlebox has forgotten are noticed, and made anew, within a bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import sqlalchemy as sa

from backendai_jupyter.cluster.etcd import EtcdClusterStore
from backendai_jupyter.cluster.redis import RedisLiveStore
from backendai_jupyter.cluster.urls import read_etcd_url, read_redis_url
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.store import postgres as dialect
from backendai_jupyter.store.engine import Database
from tests.helpers import eventually
from tests.integration.middlebox import MiddleboxThatForgetsFlows
from tests.postgres import PrivatePostgres
from tests.services import EtcdServer, RedisServer

IDLE_S = 0.5  # until a flow is forgotten
ETCD_NOTICES_S = 9.0  # see cluster/etcd_link.py


@pytest.fixture
async def redis(short_tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(short_tmp_path / "redis")
    await server.up()
    yield server
    server.kill()


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    await server.up()
    yield server
    server.kill()


async def test_a_forgotten_connection_to_redis_costs_no_call(redis: RedisServer) -> None:
    """F60: an idle peer is dropped silently."""
    async with MiddleboxThatForgetsFlows.before(redis.port, idle_s=IDLE_S) as box:
        address = read_redis_url(redis.url().replace(f":{redis.port}/", f":{box.port}/"))
        async with aclosing(RedisLiveStore(address, stale_s=IDLE_S / 2)) as store:
            await asyncio.gather(*(store.put(f"k/{n}", "1", ttl_s=60) for n in range(8)))
            await eventually(lambda: box.remembered == 0)
            began = time.monotonic()
            found = await asyncio.gather(*(store.get(f"k/{n}") for n in range(8)))
            assert found == ["1"] * 8
            assert time.monotonic() - began < 2


async def test_a_forgotten_subscription_hears_again(redis: RedisServer) -> None:
    """F60, F57: a consumer whose connection is dead does not wait for ever."""
    async with MiddleboxThatForgetsFlows.before(redis.port, idle_s=IDLE_S) as box:
        address = read_redis_url(redis.url().replace(f":{redis.port}/", f":{box.port}/"))
        near = RedisLiveStore(read_redis_url(redis.url()))
        far = RedisLiveStore(address, idle_s=2 * IDLE_S)
        async with aclosing(near), aclosing(far), far.subscribe("c") as messages:
            await eventually(lambda: box.remembered == 0)
            hearing = asyncio.ensure_future(anext(messages))

            async def is_heard() -> bool:
                await near.publish("c", "again")
                return hearing.done()

            await eventually(is_heard)
            assert await hearing == "again"


async def test_a_forgotten_watch_of_etcd_goes_on_without_a_gap(etcd: EtcdServer) -> None:
    """F60, F61: a watch whose connection is dead does not wait for ever, and misses nothing."""
    async with MiddleboxThatForgetsFlows.before(etcd.port, idle_s=IDLE_S) as box:
        url = etcd.url().replace(f":{etcd.port}/", f":{box.port}/")
        near, far = (
            EtcdClusterStore(read_etcd_url(etcd.url())),
            EtcdClusterStore(read_etcd_url(url)),
        )
        async with aclosing(near), aclosing(far):
            start = await near.put("a/0", "before")
            async with far.watch("a/", after=start) as batches:
                await eventually(lambda: box.remembered == 0)
                began = time.monotonic()
                for number in range(3):
                    await near.put("a/1", str(number))
                seen: list[str | None] = []
                async with asyncio.timeout(2 * ETCD_NOTICES_S):
                    while len(seen) < 3:
                        seen += [change.value for change in await anext(batches)]
                assert seen == ["0", "1", "2"]
                assert time.monotonic() - began < ETCD_NOTICES_S + 3


async def test_calls_of_etcd_go_on_after_their_connection_was_forgotten(etcd: EtcdServer) -> None:
    """F60: the same for calls, which say meanwhile what is the matter."""
    async with MiddleboxThatForgetsFlows.before(etcd.port, idle_s=IDLE_S) as box:
        url = etcd.url().replace(f":{etcd.port}/", f":{box.port}/")
        async with aclosing(EtcdClusterStore(read_etcd_url(url), call_s=2)) as store:
            await store.put("k", "1")
            await eventually(lambda: box.remembered == 0)

            async def answers() -> bool:
                try:
                    return await store.get("k") is not None
                except Unavailable:
                    return False

            await eventually(answers, within_s=ETCD_NOTICES_S + 6)


async def test_a_forgotten_connection_to_postgresql_costs_seconds_and_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F60: a request that meets a dead connection is answered on another."""
    monkeypatch.setattr(dialect, "STALE_S", IDLE_S / 2)
    monkeypatch.setattr(dialect, "FIRST_ANSWER_TIMEOUT_S", 1.0)
    server = PrivatePostgres()
    await asyncio.to_thread(server.make)
    try:
        await server.start()
        async with MiddleboxThatForgetsFlows.before(server.port, idle_s=IDLE_S) as box:
            url = server.url.replace(f":{server.port}/", f":{box.port}/")
            database = await Database.open(url)
            await asyncio.gather(*(_ask(database) for _ in range(3)))
            await eventually(lambda: box.remembered == 0)
            began = time.monotonic()
            await asyncio.gather(*(_ask(database) for _ in range(3)))
            assert time.monotonic() - began < 5
            await database.close()
    finally:
        await asyncio.to_thread(server.remove)


async def _ask(database: Database) -> None:
    async with database.read() as conn:
        await conn.execute(sa.text("SELECT 1"))
    async with database.write() as conn:
        await conn.execute(sa.text("SELECT 1"))
