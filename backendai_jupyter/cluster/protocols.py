"""The two seams between managers and agents; they meet nowhere else.

``ClusterStore`` carries what must not be lost (assignments, shared configuration,
leadership) with the semantics of etcd's v3 API: one revision for the whole store, ordered
watches that can resume, transactions on a key's revision.  ``LiveStore`` carries what may
be lost at any time and is published again (reports, hints), with the semantics of Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: str
    revision: int  # of the key's last change


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Entry, ...]  # sorted by key
    revision: int  # of the store when it was read


@dataclass(frozen=True, slots=True)
class Change:
    key: str
    value: str | None  # None: deleted
    revision: int


class ClusterStore(Protocol):
    """Ordered, watchable, transactional; every method may raise ``Unavailable``."""

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> Listing: ...

    async def put(self, key: str, value: str) -> int:
        """Write and return the store's new revision."""
        ...

    async def put_if(self, key: str, value: str, *, revision: int) -> bool:
        """Write if the key's revision is still ``revision`` (0: it does not exist)."""
        ...

    async def delete(self, key: str) -> int:
        """Delete if it exists and return the store's revision after that."""
        ...

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        """Yield, in order and without gaps, every change of a revision above ``after``."""
        ...


class LiveStore(Protocol):
    """Values that expire and messages that may be lost."""

    async def put(self, key: str, value: str, *, ttl_s: float) -> None: ...

    async def get(self, key: str) -> str | None: ...

    async def list(self, prefix: str) -> dict[str, str]:
        """Return the unexpired values whose key starts with ``prefix``."""
        ...

    async def delete(self, key: str) -> None: ...

    async def publish(self, channel: str, message: str) -> None: ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Yield the messages published to ``channel`` while the context is open."""
        ...
