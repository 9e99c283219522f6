"""The stores that the contract tests run against: in memory, and of real servers.

The servers are started once; each test gets a prefix of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from backendai_jupyter.cluster.protocols import ClusterStore, LiveStore
from backendai_jupyter.cluster.stores import open_cluster_store, open_live_store
from tests.services import EtcdServer, RedisServer


@pytest.fixture(scope="session")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
async def etcd(etcd_process: EtcdServer) -> EtcdServer:
    """An etcd of one member that answers, whatever another test has done to it."""
    await etcd_process.up()
    return etcd_process


@pytest.fixture
async def redis(redis_process: RedisServer) -> RedisServer:
    """A Redis that answers, whatever another test has done to it."""
    await redis_process.up()
    return redis_process


@pytest.fixture
def prefix() -> str:
    """The prefix of this test in stores that several share."""
    return uuid.uuid4().hex


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[ClusterStore]:
    url = ""
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd_process")
        await server.up()
        url = server.url(prefix)
    async with open_cluster_store(url) as opened:
        yield opened


@pytest.fixture(params=["memory", "redis"])
async def live(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[LiveStore]:
    url = ""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_process")
        await server.up()
        url = server.url(prefix)
    async with open_live_store(url) as opened:
        yield opened
