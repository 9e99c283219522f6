"""The cluster store of several nodes: ``ClusterStore`` on etcd's v3 API."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from pyetcd import etcdrpc

from backendai_jupyter.cluster.etcd_link import EtcdLink
from backendai_jupyter.cluster.etcd_watch import EtcdWatch, text_of
from backendai_jupyter.cluster.protocols import Change, Entry, Lease, Listing
from backendai_jupyter.cluster.urls import EtcdAddress
from backendai_jupyter.errors import Conflict, NotFound, Unavailable
from backendai_jupyter.supervisor import Supervisor

log = logging.getLogger(__name__)

SURE = 0.9  # of a lease's time to live; the rest is for clocks that do not run alike
RENEWALS = 4  # of a lease within its time to live
RETRY_S = 0.2
REVOKE_S = 2.0


def uptime() -> float:
    """A clock that never jumps and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EtcdClusterStore:
    """A ``ClusterStore`` below one prefix of an etcd cluster.  Close it when done.

    Nothing is asked of etcd before the first call.
    """

    def __init__(
        self,
        address: EtcdAddress,
        *,
        clock: Callable[[], float] = uptime,
        call_s: float | None = None,
    ) -> None:
        self.name = address.name
        self._prefix = address.prefix
        self._link = EtcdLink(address) if call_s is None else EtcdLink(address, call_s=call_s)
        self._clock = clock
        self._supervisor = Supervisor()

    async def aclose(self) -> None:
        await self._supervisor.close()
        await self._link.close()

    async def version(self) -> str:
        """Return etcd's version once it has shown that it lets us in."""
        await self.get("")
        status = await self._link.call("Maintenance.Status", etcdrpc.StatusRequest())
        return str(status.version)

    async def get(self, key: str) -> Entry | None:
        answer = await self._link.call("KV.Range", etcdrpc.RangeRequest(key=self._full(key)))
        return self._entry(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        start = self._full(prefix)
        request = etcdrpc.RangeRequest(key=start, range_end=end_of(start))
        answer = await self._link.call("KV.Range", request)
        return Listing(tuple(self._entry(kv) for kv in answer.kvs), answer.header.revision)

    async def put(self, key: str, value: str, *, lease: Lease | None = None) -> int:
        request = self._put(key, value, lease)
        try:
            answer = await self._link.call("KV.Put", request)
        except NotFound:
            raise _lost(key) from None
        return int(answer.header.revision)

    async def put_all(self, values: Mapping[str, str]) -> int:
        puts = (self._put(key, value, None) for key, value in values.items())
        request = etcdrpc.TxnRequest(success=[etcdrpc.RequestOp(request_put=put) for put in puts])
        return int((await self._link.call("KV.Txn", request)).header.revision)

    async def put_if(
        self, key: str, value: str, *, revision: int, lease: Lease | None = None
    ) -> bool:
        change = etcdrpc.RequestOp(request_put=self._put(key, value, lease))
        try:
            return await self._change_if(key, revision, change)
        except NotFound:
            raise _lost(key) from None

    async def delete(self, key: str) -> int:
        request = etcdrpc.DeleteRangeRequest(key=self._full(key))
        return int((await self._link.call("KV.DeleteRange", request)).header.revision)

    async def delete_if(self, key: str, *, revision: int) -> bool:
        if revision == 0:
            return False
        deletion = etcdrpc.DeleteRangeRequest(key=self._full(key))
        change = etcdrpc.RequestOp(request_delete_range=deletion)
        return await self._change_if(key, revision, change)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Change]]]:
        """See ``ClusterStore.watch``; a lost connection is made again and leaves no gap."""
        start = self._full(prefix)
        cut = len(self._full(""))
        batches = EtcdWatch(self._link, start, end_of(start), after=after, cut=cut).batches()
        async with aclosing(batches):
            await anext(batches)
            yield batches

    @asynccontextmanager
    async def lease(self, ttl_s: float) -> AsyncIterator[Lease]:
        asked = self._clock()
        request = etcdrpc.LeaseGrantRequest(TTL=max(math.ceil(ttl_s), 1))
        granted = await self._link.call("Lease.LeaseGrant", request)
        lease = EtcdLease(granted.ID, request.TTL, self._clock)
        lease.renew(asked)
        keeping = self._supervisor.task(f"lease {lease.id:x}", self._keep(lease))
        try:
            yield lease
        finally:
            lease.end()
            keeping.cancel()
            await self._revoke(lease)

    async def _keep(self, lease: EtcdLease) -> None:
        """Renew it over and over until it is lost."""
        try:
            while lease.alive:
                asked = self._clock()
                pause_s = lease.ttl_s / RENEWALS
                try:
                    if not await self._renew(lease):
                        log.warning("%s has dropped a lease", self.name)
                        return
                    lease.renew(asked)
                except Unavailable as error:
                    log.warning("A lease was not renewed: %s", error)
                    pause_s = RETRY_S
                await asyncio.sleep(min(pause_s, max(lease.left_s, 0)))
        finally:
            lease.end()

    async def _renew(self, lease: EtcdLease) -> bool:
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease.id)
        async with (
            self._link.stream("Lease.LeaseKeepAlive") as stream,
            asyncio.timeout(min(lease.ttl_s / RENEWALS, lease.left_s)),
        ):
            await stream.write(request)
            return bool((await stream.read()).TTL > 0)

    async def _revoke(self, lease: EtcdLease) -> None:
        request = etcdrpc.LeaseRevokeRequest(ID=lease.id)
        try:
            with suppress(NotFound):
                await self._link.call("Lease.LeaseRevoke", request, timeout_s=REVOKE_S)
        except Unavailable as error:
            log.warning("A lease ends by itself within %.3g s: %s", lease.ttl_s, error)

    async def _change_if(self, key: str, revision: int, change: Any) -> bool:
        unchanged = etcdrpc.Compare(
            key=self._full(key),
            target=etcdrpc.Compare.MOD,
            result=etcdrpc.Compare.EQUAL,
            mod_revision=revision,
        )
        request = etcdrpc.TxnRequest(compare=[unchanged], success=[change])
        # Once etcd may have heard it, asking again could find our own change and call it lost.
        return bool((await self._link.call("KV.Txn", request, repeatable=False)).succeeded)

    def _put(self, key: str, value: str, lease: Lease | None) -> Any:
        if lease is None:
            return etcdrpc.PutRequest(key=self._full(key), value=value.encode())
        if not (isinstance(lease, EtcdLease) and lease.alive):
            raise _lost(key)
        return etcdrpc.PutRequest(key=self._full(key), value=value.encode(), lease=lease.id)

    def _full(self, key: str) -> bytes:
        return f"{self._prefix}{key}".encode()

    def _entry(self, kv: Any) -> Entry:
        key = text_of(kv.key[len(self._full("")) :])
        return Entry(key, text_of(kv.value), kv.mod_revision)


class EtcdLease:
    """A ``Lease`` that knows by its own clock, before etcd does, that it is over."""

    def __init__(self, lease_id: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self._clock = clock
        self._sure_until = -math.inf
        self._ended = asyncio.Event()

    @property
    def left_s(self) -> float:
        return self._sure_until - self._clock()

    @property
    def alive(self) -> bool:
        return not self._ended.is_set() and self.left_s > 0

    async def lost(self) -> None:
        await self._ended.wait()

    def renew(self, asked: float) -> None:
        """Etcd has heard us at ``asked`` or later, and counts from then."""
        self._sure_until = asked + self.ttl_s * SURE

    def end(self) -> None:
        self._ended.set()


def end_of(prefix: bytes) -> bytes:
    """Return what is just above all keys that begin with ``prefix`` (which is UTF-8)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _lost(key: str) -> Conflict:
    return Conflict(f"the lease for {key} is lost; take another one")
