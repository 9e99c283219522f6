"""The cluster and live stores of a single machine: the same semantics, in this process.

Nothing here is thread-safe: all users live on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from backendai_jupyter.cluster.protocols import Change, Entry, Lease, Listing
from backendai_jupyter.errors import Conflict

LOG_LENGTH = 10_000  # changes that a watch can still resume from
RENEWALS = 3  # of a lease within its time to live


class MemoryClusterStore:
    """A ``ClusterStore`` with one revision counter, as etcd has; leases expire by ``clock``."""

    def __init__(
        self, *, log_length: int = LOG_LENGTH, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._forgotten = 0  # the last revision that the log does not have in full
        self._log: deque[Change] = deque(maxlen=log_length)
        self._watchers: set[_Watcher] = set()
        self._leases: set[MemoryLease] = set()

    async def get(self, key: str) -> Entry | None:
        self._expire()
        return self._entries.get(key)

    async def list(self, prefix: str) -> Listing:
        self._expire()
        found = (e for k, e in sorted(self._entries.items()) if k.startswith(prefix))
        return Listing(tuple(found), self._revision)

    async def put(self, key: str, value: str, *, lease: Lease | None = None) -> int:
        self._expire()
        self._bind(key, lease)
        return self._change(key, value)

    async def put_all(self, values: Mapping[str, str]) -> int:
        self._expire()
        for key in values:
            self._bind(key, None)
        return self._change_all(values)

    async def put_if(
        self, key: str, value: str, *, revision: int, lease: Lease | None = None
    ) -> bool:
        self._expire()
        if self._revision_of(key) != revision:
            return False
        self._bind(key, lease)
        self._change(key, value)
        return True

    async def delete(self, key: str) -> int:
        self._expire()
        if key in self._entries:
            self._remove(key)
        return self._revision

    async def delete_if(self, key: str, *, revision: int) -> bool:
        self._expire()
        if key not in self._entries or self._revision_of(key) != revision:
            return False
        self._remove(key)
        return True

    @asynccontextmanager
    async def lease(self, ttl_s: float) -> AsyncIterator[Lease]:
        lease = MemoryLease(ttl_s, self._clock)
        self._leases.add(lease)
        self._keep(lease)
        try:
            yield lease
        finally:
            self._end(lease)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Change]]]:
        """See ``ClusterStore.watch``; raises ``Conflict`` if ``after`` is forgotten."""
        self._expire()
        if after < self._forgotten:
            raise Conflict(f"changes after revision {after} are forgotten; list and watch again")
        watcher = _Watcher(prefix)
        for change in self._log:
            if change.revision > after:
                watcher.tell(change)
        self._watchers.add(watcher)
        try:
            yield watcher.batches()
        finally:
            self._watchers.discard(watcher)

    def _keep(self, lease: MemoryLease) -> None:
        """Renew it over and over, unless this process was held up for too long."""
        self._expire()
        if lease in self._leases:
            lease.renew()
            lease.timer = asyncio.get_running_loop().call_later(
                lease.ttl_s / RENEWALS, self._keep, lease
            )

    def _expire(self) -> None:
        for lease in [lease for lease in self._leases if not lease.alive]:
            self._end(lease)

    def _end(self, lease: MemoryLease) -> None:
        if lease in self._leases:
            self._leases.remove(lease)
            lease.end()
            for key in sorted(lease.keys):
                self._change(key, None)

    def _bind(self, key: str, lease: Lease | None) -> None:
        if lease is not None and lease not in self._leases:
            raise Conflict(f"the lease for {key} is lost; take another one")
        for other in self._leases:
            other.keys.discard(key)
        if isinstance(lease, MemoryLease):
            lease.keys.add(key)

    def _remove(self, key: str) -> None:
        self._bind(key, None)
        self._change(key, None)

    def _revision_of(self, key: str) -> int:
        return entry.revision if (entry := self._entries.get(key)) else 0

    def _change(self, key: str, value: str | None) -> int:
        return self._change_all({key: value})

    def _change_all(self, values: Mapping[str, str | None]) -> int:
        """Make all changes as one revision."""
        if values:
            self._revision += 1
        for key, value in values.items():
            if value is None:
                del self._entries[key]
            else:
                self._entries[key] = Entry(key, value, self._revision)
            self._tell(Change(key, value, self._revision))
        return self._revision

    def _tell(self, change: Change) -> None:
        if len(self._log) == self._log.maxlen:
            self._forgotten = self._log[0].revision
        self._log.append(change)
        for watcher in self._watchers:
            watcher.tell(change)


class MemoryLease:
    """A ``Lease`` of a ``MemoryClusterStore``, which keeps it."""

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self.ttl_s = ttl_s
        self.keys: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None
        self._clock = clock
        self._ended = asyncio.Event()
        self.renew()

    @property
    def alive(self) -> bool:
        return not self._ended.is_set() and self._clock() < self._deadline

    async def lost(self) -> None:
        await self._ended.wait()

    def renew(self) -> None:
        self._deadline = self._clock() + self.ttl_s

    def end(self) -> None:
        self._ended.set()
        if self.timer is not None:
            self.timer.cancel()


class _Watcher:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._queue: asyncio.Queue[Change] = asyncio.Queue()

    def tell(self, change: Change) -> None:
        if change.key.startswith(self._prefix):
            self._queue.put_nowait(change)

    async def batches(self) -> AsyncIterator[Sequence[Change]]:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            yield batch


class MemoryLiveStore:
    """A ``LiveStore`` whose values expire by ``clock`` (seconds)."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: dict[str, tuple[str, float]] = {}  # value, expiry
        self._subscribers: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    async def put(self, key: str, value: str, *, ttl_s: float) -> None:
        self._values[key] = (value, self._clock() + ttl_s)

    async def get(self, key: str) -> str | None:
        self._expire()
        found = self._values.get(key)
        return found[0] if found else None

    async def list(self, prefix: str) -> dict[str, str]:
        self._expire()
        return {k: v for k, (v, _) in sorted(self._values.items()) if k.startswith(prefix)}

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def publish(self, channel: str, message: str) -> None:
        for queue in self._subscribers.get(channel, ()):
            queue.put_nowait(message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._subscribers[channel].add(queue)
        try:
            yield _drain(queue)
        finally:
            self._subscribers[channel].discard(queue)

    def _expire(self) -> None:
        now = self._clock()
        for key in [k for k, (_, expiry) in self._values.items() if expiry <= now]:
            del self._values[key]


async def _drain(queue: asyncio.Queue[str]) -> AsyncIterator[str]:
    while True:
        yield await queue.get()
