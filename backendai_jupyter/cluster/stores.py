"""Open the two shared stores that the configuration names, or those of one machine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.urls import read_etcd_url, read_redis_url

if TYPE_CHECKING:
    from backendai_jupyter.cluster.etcd import EtcdClusterStore
    from backendai_jupyter.cluster.redis import RedisLiveStore


@asynccontextmanager
async def open_stores(
    etcd_url: str = "", redis_url: str = ""
) -> AsyncIterator[tuple[ClusterStore, LiveStore]]:
    """Open both for use on this event loop; an empty URL means one in this process.

    Raises ``InvalidInput`` for a malformed URL.  Whether the servers can be reached shows at
    the first call, or by ``check_etcd`` and ``check_redis``.
    """
    async with open_cluster_store(etcd_url) as cluster, open_live_store(redis_url) as live:
        yield cluster, live


@asynccontextmanager
async def open_cluster_store(url: str) -> AsyncIterator[ClusterStore]:
    if not url:
        yield MemoryClusterStore()
        return
    async with aclosing(_etcd(url)) as store:
        yield store


@asynccontextmanager
async def open_live_store(url: str) -> AsyncIterator[LiveStore]:
    if not url:
        yield MemoryLiveStore()
        return
    async with aclosing(_redis(url)) as store:
        yield store


async def check_etcd(url: str) -> str:
    """Return what lets us in there, in words; raises ``InvalidInput`` or ``Unavailable``."""
    async with aclosing(_etcd(url)) as store:
        return f"{store.name}, version {await store.version()}"


async def check_redis(url: str) -> str:
    """Return what lets us in there, in words; raises ``InvalidInput`` or ``Unavailable``."""
    async with aclosing(_redis(url)) as store:
        return f"{store.name}, version {await store.version()}"


async def skew_of_redis(url: str) -> float:
    """Return by how many seconds Redis's clock is ahead of ours; raises like ``check_redis``."""
    store = _redis(url)
    try:
        asked = time.time()
        theirs = await store.now()
        return theirs - (asked + time.time()) / 2
    finally:
        await store.aclose()


# The clients take 0.3 s to load, which a batch run on one machine need not wait for.


def _etcd(url: str) -> EtcdClusterStore:
    address = read_etcd_url(url)
    module: Any = import_module("backendai_jupyter.cluster.etcd")
    store: EtcdClusterStore = module.EtcdClusterStore(address)
    return store


def _redis(url: str) -> RedisLiveStore:
    address = read_redis_url(url)
    module: Any = import_module("backendai_jupyter.cluster.redis")
    store: RedisLiveStore = module.RedisLiveStore(address)
    return store
