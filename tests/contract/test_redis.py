"""What may go wrong between a live store and real Redis servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.cluster.redis import RedisLiveStore
from backendai_jupyter.cluster.stores import check_redis
from backendai_jupyter.cluster.urls import read_redis_url
from backendai_jupyter.errors import TimedOut, Unavailable
from tests.certificates import make_certificates
from tests.helpers import eventually
from tests.ports import free_port
from tests.services import PASSWORD, RedisServer, Wire


@asynccontextmanager
async def opened(url: str, *, call_s: float = 5.0) -> AsyncIterator[RedisLiveStore]:
    async with aclosing(RedisLiveStore(read_redis_url(url), call_s=call_s, idle_s=0.3)) as store:
        yield store


async def hears(store: LiveStore, messages: AsyncIterator[str]) -> None:
    """Say something until it is heard; what is said meanwhile may be lost."""
    hearing = asyncio.ensure_future(anext(messages))

    async def is_heard() -> bool:
        try:
            await store.publish("c", "again")
        except Unavailable:
            return False
        return hearing.done()

    await eventually(is_heard)
    assert await hearing == "again"


async def test_nobody_there_is_said_at_once_and_by_name() -> None:
    port = free_port()
    async with opened(f"redis://127.0.0.1:{port}") as store:
        before = time.monotonic()
        with pytest.raises(Unavailable, match=f"Redis at 127.0.0.1:{port} cannot be reached"):
            await store.get("k")
        with pytest.raises(Unavailable, match="Redis at"):
            async with store.subscribe("c"):
                pass
        assert time.monotonic() - before < 5  # the limit of one call


async def test_a_call_that_is_cancelled_while_it_connects_ends_cancelled() -> None:
    connected = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(f"redis://127.0.0.1:{port}") as store:
        call = asyncio.ensure_future(store.get("k"))
        await connected.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_server_that_hangs_costs_no_more_than_the_time_limit(
    redis: RedisServer, prefix: str
) -> None:
    async with opened(redis.url(prefix), call_s=0.5) as store:
        await store.put("k", "1", ttl_s=60)
        redis.stop()
        before = time.monotonic()
        with pytest.raises(TimedOut, match=r"Redis at .* did not answer"):
            await store.get("k")
        many = (store.publish("c", "x") for _ in range(40))  # more than it has connections
        refusals = await asyncio.gather(*many, return_exceptions=True)
        assert {type(refusal) for refusal in refusals} <= {TimedOut, Unavailable}
        assert time.monotonic() - before < 10  # one after the other takes 20
        redis.go_on()
        assert await store.get("k") == "1"


async def test_calls_and_subscriptions_go_on_after_the_server_was_killed_and_came_back(
    redis: RedisServer, prefix: str
) -> None:
    """F57: a server that was killed."""
    async with opened(redis.url(prefix)) as store, store.subscribe("c") as messages:
        await asyncio.gather(*(store.put(f"k/{i}", "1", ttl_s=60) for i in range(10)))
        redis.kill()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.get("k/1")
        await redis.up()
        assert await store.get("k/1") is None
        await hears(store, messages)


async def test_a_subscription_goes_on_after_the_server_hung(
    redis: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F57: a server that hung."""
    async with opened(redis.url(prefix), call_s=0.5) as store, store.subscribe("c") as messages:
        hearing = asyncio.ensure_future(anext(messages))
        redis.stop()
        await eventually(lambda: "A subscription is interrupted" in caplog.text)
        redis.go_on()

        async def is_heard() -> bool:
            await store.publish("c", "again")
            return hearing.done()

        await eventually(is_heard)
        assert await hearing == "again"


async def test_after_a_failover_calls_and_subscriptions_are_at_the_new_primary(
    redis: RedisServer, prefix: str, short_tmp_path: Path
) -> None:
    """F57: another server is the primary, and has its address; the former one lives on."""
    follower, wire = RedisServer(short_tmp_path / "follower"), Wire(redis.port)
    await follower.up()
    url = redis.url(prefix).replace(f":{redis.port}/", f":{await wire.open()}/")
    try:
        async with (
            opened(url) as store,
            opened(follower.url(prefix)) as at_follower,
            store.subscribe("c") as messages,
        ):
            await asyncio.gather(*(store.put(f"k/{i}", "1", ttl_s=60) for i in range(4)))
            wire.lead_to(follower.port)
            await redis.command("REPLICAOF", "127.0.0.1", str(follower.port))
            await asyncio.gather(*(store.put(f"k/{i}", "2", ttl_s=60) for i in range(4)))
            assert set((await at_follower.list("k/")).values()) == {"2"}
            await hears(at_follower, messages)
    finally:
        await redis.command("REPLICAOF", "NO", "ONE")
        await wire.close()
        follower.kill()


async def test_a_quiet_subscription_stays(redis: RedisServer, prefix: str) -> None:
    async with opened(redis.url(prefix)) as store, store.subscribe("c") as messages:
        hearing = asyncio.ensure_future(anext(messages))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):  # three times as long as it waits before it asks
                await asyncio.shield(hearing)
        await store.publish("c", "once")
        async with asyncio.timeout(30):
            assert await hearing == "once"


async def test_prefixes_and_databases_keep_stores_apart(redis: RedisServer, prefix: str) -> None:
    async with (
        opened(redis.url(prefix)) as one,
        opened(redis.url(f"{prefix}-2")) as other,
        other.subscribe("c") as messages,
    ):
        await one.put("k", "1", ttl_s=60)
        await one.publish("c", "for one")
        await other.publish("c", "for the other")
        assert await other.list("") == {}
        assert await one.list("") == {"k": "1"}
        assert await anext(messages) == "for the other"


async def test_a_socket_file(redis: RedisServer, prefix: str) -> None:
    async with (
        opened(redis.url(prefix)) as one,
        opened(f"unix://{redis.socket}?prefix={prefix}") as same,
    ):
        await one.put("k", "1", ttl_s=60)
        assert await same.get("k") == "1"


async def test_tls_and_password(tmp_path: Path, short_tmp_path: Path) -> None:
    secured = make_certificates(tmp_path)
    server = RedisServer(short_tmp_path / "redis", secured=secured, password=PASSWORD)
    try:
        await server.up()
        async with opened(server.url()) as store, store.subscribe("c") as messages:
            await store.put("k", "1", ttl_s=60)
            assert await store.list("") == {"k": "1"}
            await hears(store, messages)
        assert PASSWORD not in repr(read_redis_url(server.url()))
        assert ", version " in await check_redis(server.url())
        with pytest.raises(Unavailable, match="invalid username-password pair") as refusal:
            await check_redis(server.url().replace("s3cret", "s4cret"))
        assert "s4cret" not in str(refusal.value)
        with pytest.raises(Unavailable, match="uthentication"):
            await check_redis(f"rediss://127.0.0.1:{server.port}?cacert={secured.ca}")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await check_redis(f"rediss://127.0.0.1:{server.port}")
    finally:
        server.kill()
