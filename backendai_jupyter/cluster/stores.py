"""Open the two shared stores that the configuration names, or those of one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backendai_jupyter.cluster.etcd import EtcdClusterStore
from backendai_jupyter.cluster.memory import MemoryClusterStore, MemoryLiveStore
from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.redis import RedisLiveStore
from backendai_jupyter.cluster.urls import read_etcd_url, read_redis_url


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
    store = EtcdClusterStore(read_etcd_url(url))
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_live_store(url: str) -> AsyncIterator[LiveStore]:
    if not url:
        yield MemoryLiveStore()
        return
    store = RedisLiveStore(read_redis_url(url))
    try:
        yield store
    finally:
        await store.close()


async def check_etcd(url: str) -> str:
    """Return what answers there, in words; raises ``InvalidInput`` or ``Unavailable``."""
    store = EtcdClusterStore(read_etcd_url(url))
    try:
        return f"{await store.version()}, {store.name}"
    finally:
        await store.close()


async def check_redis(url: str) -> str:
    """Return what answers there, in words; raises ``InvalidInput`` or ``Unavailable``."""
    store = RedisLiveStore(read_redis_url(url))
    try:
        return f"{await store.version()}, {store.name}"
    finally:
        await store.close()
