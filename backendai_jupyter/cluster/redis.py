"""The live store of several nodes: ``LiveStore`` on Redis."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as TookTooLong

from backendai_jupyter.cluster.urls import RedisAddress
from backendai_jupyter.errors import TimedOut, Unavailable

log = logging.getLogger(__name__)

CALL_S = 5.0
CONNECTIONS = 16
SCAN_COUNT = 1000
IDLE_S = 10.0  # after so much silence a subscription asks whether Redis is still there
STALE_S = 30.0  # a connection on which nothing was said for so long is made anew
MAX_PAUSE_S = 1.0


class RedisLiveStore:
    """A ``LiveStore`` below one prefix of a Redis database.  Close it when done.

    Nothing is asked of Redis before the first call.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        call_s: float = CALL_S,
        idle_s: float = IDLE_S,
        stale_s: float = STALE_S,
    ) -> None:
        self.name = address.name
        self._prefix = address.prefix
        self._call_s = call_s
        self._idle_s = idle_s
        kind, options = _connection(address, call_s)
        self._calls: Any = aioredis.Redis.from_pool(
            FreshConnections(
                stale_s,
                connection_class=kind,
                max_connections=CONNECTIONS,
                timeout=call_s,
                **options,
            )
        )
        # Each subscription has a connection of its own, and none of them may wait for another.
        self._ears: Any = aioredis.Redis.from_pool(
            aioredis.ConnectionPool(connection_class=kind, **options)
        )

    async def aclose(self) -> None:
        await self._calls.aclose()
        await self._ears.aclose()

    async def version(self) -> str:
        """Return Redis's version once it has shown that it lets us in."""
        async with in_words(self.name, self._call_s):
            return str((await self._calls.info("server"))["redis_version"])

    async def now(self) -> float:
        """Return the time by Redis's clock, in seconds since the epoch, UTC."""
        async with in_words(self.name, self._call_s):
            seconds, micros = await self._calls.time()
        return float(seconds + micros / 1e6)

    async def put(self, key: str, value: str, *, ttl_s: float) -> None:
        async with in_words(self.name, self._call_s):
            await self._calls.set(self._full(key), value, px=max(int(ttl_s * 1000), 1))

    async def get(self, key: str) -> str | None:
        async with in_words(self.name, self._call_s):
            found: str | None = await self._calls.get(self._full(key))
            return found

    async def list(self, prefix: str) -> dict[str, str]:
        async with in_words(self.name, self._call_s):
            pattern = _literally(self._full(prefix)) + "*"
            scan = self._calls.scan_iter(match=pattern, count=SCAN_COUNT)
            keys = sorted({key async for key in scan})
            values = await self._calls.mget(keys) if keys else []
        cut = len(self._prefix)
        return {k[cut:]: v for k, v in zip(keys, values, strict=True) if v is not None}

    async def delete(self, key: str) -> None:
        async with in_words(self.name, self._call_s):
            await self._calls.delete(self._full(key))

    async def publish(self, channel: str, message: str) -> None:
        async with in_words(self.name, self._call_s):
            await self._calls.publish(self._full(channel), message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """See ``LiveStore.subscribe``; a lost connection is made again by itself."""
        messages = self._messages(self._full(channel))
        async with aclosing(messages):
            await anext(messages)
            yield messages

    async def _messages(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield an empty string once it listens, then the messages.

        Raises ``Unavailable`` if it cannot begin; once it has, it goes on by itself.
        """
        has_begun, failures = False, 0
        while True:
            try:
                async with self._listen(channel) as ear:
                    if not has_begun:
                        has_begun = True
                        yield ""
                    failures = 0
                    while True:
                        yield await self._next(ear)
            except Unavailable as error:
                if not has_begun:
                    raise
                failures += 1
                if failures == 1:
                    log.warning("A subscription is interrupted: %s", error)
            await asyncio.sleep(min(0.05 * 2**failures, MAX_PAUSE_S))

    @asynccontextmanager
    async def _listen(self, channel: str) -> AsyncIterator[Any]:
        """Subscribe on a connection of its own; returns once Redis has confirmed it."""
        ear = self._ears.pubsub()
        try:
            async with in_words(self.name, self._call_s):
                await ear.subscribe(channel)
                confirmed = None
                while confirmed is None:
                    confirmed = await ear.get_message(timeout=self._call_s)
            yield ear
        finally:
            await ear.aclose()

    async def _next(self, ear: Any) -> str:
        is_asked = False
        while True:
            # The time limit is one for silence here; for an answer it is get_message's.
            async with in_words(self.name, None):
                message = await ear.get_message(timeout=self._idle_s)
                if message is None:
                    if is_asked:
                        raise TookTooLong("no answer")
                    await ear.ping()
            if message is not None and message["type"] == "message":
                return str(message["data"])
            is_asked = message is None

    def _full(self, name: str) -> str:
        return f"{self._prefix}{name}"


class FreshConnections(aioredis.BlockingConnectionPool):
    """Hands out no connection that a firewall may have forgotten: on it a call would wait."""

    def __init__(self, stale_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._stale_s = stale_s
        self._used: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def ensure_connection(self, connection: Any) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._used.get(connection, now) > self._stale_s:
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: Any) -> None:
        self._used[connection] = asyncio.get_running_loop().time()
        await super().release(connection)


@asynccontextmanager
async def in_words(name: str, within_s: float | None) -> AsyncIterator[None]:
    """Raise ``Unavailable`` for all that may go wrong with Redis."""
    task = asyncio.current_task()
    assert task is not None
    cancels = task.cancelling()
    try:
        async with asyncio.timeout(within_s):
            yield
    except (TimeoutError, TookTooLong):
        raise TimedOut(f"{name} did not answer in time") from None
    except (NoConnection, OSError) as error:
        raise Unavailable(f"{name} cannot be reached: {error}") from None
    except RedisError as error:
        raise Unavailable(f"{name} refused: {error}") from None
    finally:
        # Asyncio may swallow it while it races the addresses of a host, as redis has it do.
        if task.cancelling() > cancels:
            raise asyncio.CancelledError


def _connection(address: RedisAddress, call_s: float) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of connections to ``address`` and what they are made with."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.user,
        "password": address.password or None,
        "decode_responses": True,
        "protocol": 2,
        "socket_connect_timeout": call_s,
        "socket_timeout": call_s,
        # Once: a connection may have ended with the server that it was made to, or that server
        # has become a replica of the one that has its address now.
        "retry": Retry(NoBackoff(), 1, supported_errors=(NoConnection, ReadOnlyError)),
    }
    if address.socket:
        return aioredis.UnixDomainSocketConnection, options | {"path": address.socket}
    options |= {"host": address.host, "port": address.port}
    if address.tls is None:
        return aioredis.Connection, options
    return aioredis.SSLConnection, options | {
        "ssl_ca_certs": _text(address.tls.cacert),
        "ssl_certfile": _text(address.tls.cert),
        "ssl_keyfile": _text(address.tls.key),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _literally(text: str) -> str:
    """Return the pattern of Redis that matches just ``text``."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
