"""The two seams between managers and agents; they meet nowhere else.

``ClusterStore`` carries what must not be lost (assignments, shared configuration,
leadership) with the semantics of etcd's v3 API: one revision for the whole store, ordered
watches that can resume, transactions on a key's revision, leases.  ``LiveStore`` carries what may
be lost at any time and is published again (reports, hints), with the semantics of Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

MAX_AT_ONCE = 128  # keys in one transaction, as etcd has it unless it is told otherwise


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


class Lease(Protocol):
    """Holds keys; the store deletes them once it hears no more from their owner."""

    @property
    def alive(self) -> bool:
        """Whether its keys are certainly still there; false before the store deletes them."""
        ...

    async def lost(self) -> None:
        """Return when it is not alive any more; it never is again, so take another one."""
        ...


class ClusterStore(Protocol):
    """Ordered, watchable, transactional; every method may raise ``Unavailable``."""

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> Listing: ...

    async def put(self, key: str, value: str, *, lease: Lease | None = None) -> int:
        """Write and return the store's new revision.

        The key ends with ``lease``, and without one stays; a lost one raises ``Conflict``.
        """
        ...

    async def put_all(self, values: Mapping[str, str]) -> int:
        """Write all of them as one revision, or none; at most ``MAX_AT_ONCE``.

        Whoever watches sees them together.
        """
        ...

    async def put_if(
        self, key: str, value: str, *, revision: int, lease: Lease | None = None
    ) -> bool:
        """Do the same if the key's revision is still ``revision`` (0: it does not exist)."""
        ...

    async def delete(self, key: str) -> int:
        """Delete if it exists and return the store's revision after that."""
        ...

    async def delete_if(self, key: str, *, revision: int) -> bool:
        """Delete if the key's revision is still ``revision``."""
        ...

    def lease(self, ttl_s: float) -> AbstractAsyncContextManager[Lease]:
        """Take a lease that is kept alive while the context is open, and its keys with it.

        They are deleted at once when the context closes, and within ``ttl_s`` when its process
        dies, hangs or cannot reach the store.
        """
        ...

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        """Yield, in order and without gaps, every change of a revision above ``after``.

        Raises ``Conflict`` where the store has forgotten some of them: list and watch again.
        """
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
