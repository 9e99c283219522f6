"""Be the one of several managers that leads, for as long as that is certain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from backendai_jupyter.cluster.protocols import ClusterStore, Lease
from backendai_jupyter.errors import Conflict, Unavailable
from backendai_jupyter.supervisor import Loop, race

log = logging.getLogger(__name__)

TTL_S = 10.0
LOOK_S = 1.0  # between two looks whether it is able


class Leadership:
    """A candidate for ``key``; run it under a supervisor, which ends it.

    ``name`` tells candidates apart, also after a restart.  A candidate that ends resigns at
    once; one that is killed is followed by another within ``ttl_s``.  ``on_change`` is called
    whenever it is elected or notices that it leads no longer.  Who is not ``able`` to lead, as
    without another store, resigns and lets others.
    """

    def __init__(
        self,
        store: ClusterStore,
        key: str,
        name: str,
        *,
        ttl_s: float = TTL_S,
        able: Callable[[], bool] = lambda: True,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._ttl_s = ttl_s
        self._able = able
        self._on_change = on_change
        self._lease: Lease | None = None  # while elected

    @property
    def is_leader(self) -> bool:
        """Whether nobody else can be; ask again after each await."""
        return self._lease is not None and self._lease.alive

    async def run(self) -> None:
        """Stand for election again and again, until cancelled."""
        await Loop(
            f"leadership of {self._key}",
            self._campaign,
            period_s=0,
            max_backoff_s=self._ttl_s / 3,
            expected=(Conflict, Unavailable),
        ).run()

    async def _campaign(self) -> None:
        """Wait until the place is free, take it, and hold it as long as possible."""
        await self._until_able(True)
        if (holder := await self._store.get(self._key)) is not None:
            await self._until_changed(holder.revision)
        async with self._store.lease(self._ttl_s) as lease:
            if await self._store.put_if(self._key, self._name, revision=0, lease=lease):
                await self._lead(lease)

    async def _lead(self, lease: Lease) -> None:
        place = await self._store.get(self._key)
        if place is None or place.value != self._name:
            return
        self._lease = lease
        log.info("%s leads (%s)", self._name, self._key)
        self._on_change()
        try:
            # An administrator may take the place away, or give it to somebody else.
            changed = self._until_changed(place.revision)
            await race(lease.lost(), changed, self._until_able(False))
        finally:
            self._lease = None
            log.info("%s leads no longer (%s)", self._name, self._key)
            self._on_change()

    async def _until_able(self, able: bool) -> None:
        while self._able() is not able:  # noqa: ASYNC110 - who is asked tells nobody
            await asyncio.sleep(LOOK_S)

    async def _until_changed(self, revision: int) -> None:
        async with self._store.watch(self._key, after=revision) as batches:
            async for batch in batches:
                if any(change.key == self._key for change in batch):
                    return
