"""Speak to the members of an etcd cluster: failover, deadlines, login, errors in words.

Of pyetcd this takes the generated messages and stubs, over channels of ``grpc.aio``; its own
client is not used (docs/explanation/decisions/020-cluster-stores.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from pyetcd import etcdrpc

from backendai_jupyter.cluster.urls import EtcdAddress, Tls
from backendai_jupyter.errors import BackendError, NotFound, TimedOut, Unavailable

log = logging.getLogger(__name__)

CALL_S = 5.0  # within which a call succeeds or fails, however many members are asked
_OPTIONS = (
    # Try again within a second whom one could not reach; grpc's own patience is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # for which it tries to connect
    # Notice within 9 s that a member hangs which owes no answer; etcd allows a ping each 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # of other pings, which keep those from being sent
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_PASSING = {  # another member, or the same one in a moment, may answer
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
}
_STALE_LOGIN = ("invalid auth token", "auth store is old")
_PAUSE_S = 0.1


class EtcdLink:
    """One channel to each member; who answered last is asked first.

    Belongs to the event loop that it is first used on.
    """

    def __init__(self, address: EtcdAddress, *, call_s: float = CALL_S) -> None:
        self.name = address.name
        self.size = len(address.endpoints)
        self._address = address
        self._call_s = call_s
        self._members = [_Member(endpoint, address.tls) for endpoint in address.endpoints]
        self._current = 0
        self._token: str | None = None
        self._login = asyncio.Lock()

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members))

    async def call(
        self, method: str, request: Any, *, repeatable: bool = True, timeout_s: float | None = None
    ) -> Any:
        """Return the answer to ``request``; ``method`` is like ``KV.Put``.

        What is not ``repeatable`` is asked again only if it certainly was not heard.  Raises
        ``NotFound`` for a lease that is no more, and else ``Unavailable``.
        """
        deadline = time.monotonic() + (timeout_s or self._call_s)
        unreached = 0  # in a row
        may_log_in_again = True
        while True:
            tried = self._current
            try:
                return await self._ask(method, request, deadline, repeatable)
            except grpc.aio.AioRpcError as error:
                if may_log_in_again and _login_is_stale(error):
                    self._token, may_log_in_again = None, False
                    continue
                unreached = unreached + 1 if _was_not_sent(error) else 0
                if not (unreached or (repeatable and error.code() in _PASSING)):
                    raise self._in_words(error) from None
                self._turn_from(tried)
                if unreached == len(self._members) or time.monotonic() + _PAUSE_S > deadline:
                    raise self._in_words(error) from None
            if not unreached:
                await asyncio.sleep(_PAUSE_S)

    @asynccontextmanager
    async def stream(self, method: str) -> AsyncIterator[Stream]:
        """Open a stream in both directions to one member; raises ``Unavailable``.

        A member that has lost the others ends it.
        """
        tried = self._current
        metadata = [("hasleader", "true")]
        try:
            metadata += await self._metadata(time.monotonic() + self._call_s)
            stream = Stream(self._members[tried].method(method)(metadata=metadata))
            try:
                yield stream
            finally:
                stream.close()
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._turn_from(tried)
            if isinstance(error, TimeoutError):
                raise TimedOut(f"{self.name} did not answer in time") from None
            self._token = None if _login_is_stale(error) else self._token
            raise self._in_words(error) from None

    def forget_login(self) -> None:
        """Log in again before the next call."""
        self._token = None

    async def _ask(self, method: str, request: Any, deadline: float, in_parts: bool) -> Any:
        metadata = await self._metadata(deadline)
        left_s = max(deadline - time.monotonic(), 0.001)
        if in_parts:  # leave time for the others if this one hangs
            left_s = max(left_s / len(self._members), min(left_s, 1.0))
        call = self._members[self._current].method(method)
        return await call(request, timeout=left_s, metadata=metadata)

    async def _metadata(self, deadline: float) -> list[tuple[str, str]]:
        if self._address.user is None:
            return []
        async with self._login:
            if self._token is None:
                log_in = self._members[self._current].method("Auth.Authenticate")
                request = etcdrpc.AuthenticateRequest(
                    name=self._address.user, password=self._address.password
                )
                left_s = max(deadline - time.monotonic(), 0.001) / len(self._members)
                self._token = str((await log_in(request, timeout=left_s)).token)
            return [("token", self._token)]

    def _turn_from(self, tried: int) -> None:
        """Ask the next member first from now on, unless somebody has turned already."""
        if self._current == tried:
            self._current = (tried + 1) % len(self._members)

    def _in_words(self, error: grpc.aio.AioRpcError) -> BackendError:
        details = (error.details() or error.code().name).removeprefix("etcdserver: ")
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return NotFound(details)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(f"{self.name} did not answer in time")
        if error.code() in _PASSING:
            return Unavailable(f"{self.name} cannot be reached: {details}")
        return Unavailable(f"{self.name} refused: {details}")


class Stream:
    """Messages to and from one member; every failure is an ``AioRpcError``."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, message: Any) -> None:
        try:
            await self._call.write(message)
        except asyncio.InvalidStateError:
            await self._raise()

    async def read(self) -> Any:
        answer = await self._call.read()
        if answer is grpc.aio.EOF:
            await self._raise()
        return answer

    def close(self) -> None:
        self._call.cancel()

    async def _raise(self) -> NoReturn:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNAVAILABLE, "it hung up"
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class _Member:
    def __init__(self, endpoint: str, tls: Tls | None) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[str, Any] = {}

    def method(self, name: str) -> Any:
        service, _, method = name.partition(".")
        if service not in self._stubs:
            self._channel = self._channel or self._open()
            self._stubs[service] = getattr(etcdrpc, f"{service}Stub")(self._channel)
        return getattr(self._stubs[service], method)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._endpoint, options=_OPTIONS)
        files = (self._tls.cacert, self._tls.key, self._tls.cert)
        try:
            pems = (path and path.read_bytes() for path in files)
            credentials = grpc.ssl_channel_credentials(*pems)
        except OSError as error:
            raise Unavailable(f"etcd at {self._endpoint}: cannot read {error.filename}") from None
        return grpc.aio.secure_channel(self._endpoint, credentials, options=_OPTIONS)


def _was_not_sent(error: grpc.aio.AioRpcError) -> bool:
    return (error.details() or "").startswith("failed to connect")


def _login_is_stale(error: grpc.aio.AioRpcError) -> bool:
    return any(text in (error.details() or "") for text in _STALE_LOGIN)
