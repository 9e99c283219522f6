"""What may go wrong between a cluster store and real etcd servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from backendai_jupyter.cluster.etcd import EtcdClusterStore
from backendai_jupyter.cluster.protocols import Change, ClusterStore
from backendai_jupyter.cluster.stores import check_etcd
from backendai_jupyter.cluster.urls import read_etcd_url
from backendai_jupyter.errors import Conflict, InvalidInput, TimedOut, Unavailable
from tests.certificates import make_certificates
from tests.helpers import eventually
from tests.ports import free_port
from tests.services import (
    PASSWORD,
    PASSWORD_IN_URL,
    EtcdServer,
    Wire,
    three_members,
)

LOGIN_TTL_S = 1


@asynccontextmanager
async def opened(url: str, *, call_s: float = 5.0) -> AsyncIterator[EtcdClusterStore]:
    async with aclosing(EtcdClusterStore(read_etcd_url(url), call_s=call_s)) as store:
        yield store


class Ends:
    """Two clients of one store: ``far`` is at the other end of a wire that can be cut."""

    def __init__(self, near: ClusterStore, far: ClusterStore, wire: Wire) -> None:
        self.near, self.far, self.wire = near, far, wire


@pytest.fixture
async def ends(etcd: EtcdServer, prefix: str) -> AsyncIterator[Ends]:
    async with AsyncExitStack() as stack:
        wire = Wire(etcd.port)
        port = await wire.open()
        stack.push_async_callback(wire.close)
        near = await stack.enter_async_context(opened(etcd.url(prefix)))
        far = await stack.enter_async_context(opened(f"etcd://127.0.0.1:{port}/{prefix}"))
        yield Ends(near, far, wire)


async def values(batches: AsyncIterator[Sequence[Change]], count: int) -> list[str | None]:
    found: list[str | None] = []
    async with asyncio.timeout(15):
        while len(found) < count:
            found += [change.value for change in await anext(batches)]
    return found


async def can_put(store: ClusterStore) -> bool:
    try:
        await store.put("probe", "1")
    except Unavailable:
        return False
    return True


async def test_nobody_there_is_said_at_once_and_by_name() -> None:
    port = free_port()
    async with opened(f"etcd://127.0.0.1:{port}") as store:
        before = time.monotonic()
        with pytest.raises(Unavailable, match=f"etcd at 127.0.0.1:{port} cannot be reached"):
            await store.get("k")
        assert time.monotonic() - before < 5  # the limit of a call
        with pytest.raises(Unavailable, match="etcd at"):
            async with store.watch("k", after=0):
                pass
        with pytest.raises(Unavailable, match="etcd at"):
            async with store.lease(10):
                pass


async def test_a_name_that_does_not_resolve_is_said() -> None:
    async with opened("etcd://no-such-host.invalid", call_s=1) as store:
        with pytest.raises(Unavailable, match=r"etcd at no-such-host\.invalid:2379"):
            await store.get("k")


async def test_a_server_that_hangs_costs_no_more_than_the_time_limit(
    etcd: EtcdServer, prefix: str
) -> None:
    async with opened(etcd.url(prefix), call_s=0.5) as store:
        await store.put("k", "1")
        etcd.stop()
        before = time.monotonic()
        with pytest.raises(TimedOut, match=f"etcd at {etcd.endpoint} did not answer"):
            await store.put("k", "2")
        assert time.monotonic() - before < 5  # that of others
        etcd.go_on()
        await eventually(lambda: can_put(store))


async def test_a_watch_goes_on_without_a_gap_after_its_connection_was_lost(ends: Ends) -> None:
    """F61: and after a broken connection."""
    start = await ends.near.put("a/0", "before")
    async with ends.far.watch("a/", after=start) as batches:
        await ends.near.put("a/1", "1")
        assert await values(batches, 1) == ["1"]
        ends.wire.cut()
        await ends.near.put("a/1", "2")
        await ends.near.put("a/1", "3")
        await ends.near.delete("a/1")
        ends.wire.join()
        assert await values(batches, 3) == ["2", "3", None]


async def test_a_watch_says_that_it_has_a_gap_when_what_it_missed_is_compacted(
    ends: Ends, etcd: EtcdServer
) -> None:
    start = await ends.near.put("a/0", "before")
    async with ends.far.watch("a/", after=start) as batches:
        ends.wire.cut()
        revisions = [await ends.near.put("a/1", value) for value in "123"]
        await etcd.ask("kv/compaction", revision=str(revisions[-1]))
        ends.wire.join()
        with pytest.raises(Conflict, match="list and watch again"):
            await values(batches, 3)


async def test_a_watch_from_a_compacted_revision_is_refused(etcd: EtcdServer, prefix: str) -> None:
    async with opened(etcd.url(prefix)) as store:
        revisions = [await store.put("a", value) for value in "123"]
        await etcd.ask("kv/compaction", revision=str(revisions[-1]))
        with pytest.raises(Conflict, match="list and watch again"):
            async with store.watch("a", after=revisions[0] - 1) as batches:
                await values(batches, 1)


async def test_a_watch_from_the_future_of_an_etcd_that_began_anew_is_refused(
    etcd: EtcdServer, prefix: str
) -> None:
    async with opened(etcd.url(prefix)) as store:
        revision = await store.put("a", "1")
        with pytest.raises(Conflict, match="list and watch again"):
            async with store.watch("a", after=revision + 1000):
                pass


async def test_everything_goes_on_after_the_server_was_killed_and_came_back(
    etcd: EtcdServer, prefix: str
) -> None:
    """F61: a watch goes on after a restart of etcd."""
    async with opened(etcd.url(prefix)) as store, store.lease(30) as lease:
        start = await store.put("a/1", "1", lease=lease)
        async with store.watch("a/", after=start) as batches:
            etcd.kill()
            with pytest.raises(Unavailable, match="cannot be reached"):
                await store.put("a/1", "lost")
            await etcd.up()
            await eventually(lambda: can_put(store))
            await store.put("a/1", "2", lease=lease)
            assert await values(batches, 1) == ["2"]
            assert lease.alive


async def test_the_keys_of_an_owner_that_is_cut_off_vanish_and_he_knows_it_first(
    ends: Ends,
) -> None:
    async with ends.far.lease(2) as lease:
        revision = await ends.far.put("a/1", "1", lease=lease)
        async with ends.near.watch("a/", after=revision) as batches:
            ends.wire.cut()
            async with asyncio.timeout(10):
                await lease.lost()
            assert await ends.near.get("a/1") is not None
            assert not lease.alive
            assert await values(batches, 1) == [None]
        ends.wire.join()
    await eventually(lambda: can_put(ends.far))
    async with ends.far.lease(2) as lease:
        await ends.far.put("a/1", "again", lease=lease)
        assert await ends.near.get("a/1") is not None


async def test_a_lease_that_etcd_has_dropped_is_lost(etcd: EtcdServer, prefix: str) -> None:
    async with opened(etcd.url(prefix)) as store, store.lease(2) as lease:
        leases = (await etcd.ask("lease/leases"))["leases"]
        for found in leases:
            await etcd.ask("lease/revoke", ID=found["ID"])
        with pytest.raises(Conflict, match="take another one"):
            await store.put("k", "1", lease=lease)
        async with asyncio.timeout(30):
            await lease.lost()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EtcdServer]]:
    members = three_members(tmp_path_factory.mktemp("three"))
    yield members
    for member in members:
        member.kill()


async def all_up(members: list[EtcdServer]) -> None:
    """Return when none of them is down or hangs any more."""
    for member in members:
        if not member.is_running:
            member.start()
    await asyncio.gather(*(member.up() for member in members))


async def leader_of(members: list[EtcdServer]) -> EtcdServer:
    leaders: list[EtcdServer] = []

    async def found() -> bool:
        leaders[:] = [member for member in members if await member.is_leader()]
        return len(leaders) == 1

    await eventually(found)
    return leaders[0]


@pytest.mark.parametrize("loss", ["killed", "hangs"])
async def test_three_members_that_lose_their_leader_serve_on(
    cluster: list[EtcdServer], loss: str
) -> None:
    await all_up(cluster)
    endpoints = [member.endpoint for member in cluster]
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(opened(f"etcd://{','.join(order)}/three"))
            for order in (endpoints, endpoints[1:] + endpoints[:1], endpoints[2:] + endpoints[:2])
        ]
        start = await stores[0].put("a", "1")
        leases = [await stack.enter_async_context(store.lease(5)) for store in stores]
        watches = [await stack.enter_async_context(s.watch("a", after=start)) for s in stores]
        leader = await leader_of(cluster)
        leader.kill() if loss == "killed" else leader.stop()
        await asyncio.gather(*(eventually(partial(can_put, store)) for store in stores))
        await stores[0].put("a", "2")
        assert [await values(watch, 1) for watch in watches] == [["2"]] * 3
        assert all(lease.alive for lease in leases)
    await all_up(cluster)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    directory = tmp_path_factory.mktemp("guarded")
    secured = make_certificates(directory)
    server = EtcdServer(directory / "etcd", secured=secured, login_ttl_s=LOGIN_TTL_S)
    yield server
    server.kill()


async def test_tls_and_password(guarded: EtcdServer, tmp_path: Path) -> None:
    await guarded.up()
    await guarded.require_password()
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    for url in (
        guarded.url(login=f"root:{PASSWORD_IN_URL}@"),
        f"{guarded.url(login='root@')}&passwordfile={secret}",
    ):
        async with opened(url) as store, store.lease(10) as lease:
            revision = await store.put("k", "1", lease=lease)
            async with store.watch("k", after=revision - 1) as batches:
                assert await values(batches, 1) == ["1"]
        assert PASSWORD not in repr(read_etcd_url(url))
        assert ", version 3." in await check_etcd(url)


async def test_who_may_not_in_is_told_so_without_his_password(guarded: EtcdServer) -> None:
    await guarded.up()
    with pytest.raises(Unavailable, match="refused: authentication failed") as refusal:
        await check_etcd(guarded.url(login=f"root:x{PASSWORD_IN_URL}@"))
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(Unavailable, match="refused: user name is empty"):
        await check_etcd(guarded.url())
    with pytest.raises(Unavailable, match="cannot be reached"):
        await check_etcd(f"etcds://root:{PASSWORD_IN_URL}@{guarded.endpoint}")
    with pytest.raises(InvalidInput, match="etcd_url"):
        await check_etcd(f"etcds://root@{guarded.endpoint}")


async def test_who_was_let_in_logs_in_again_when_that_has_expired(guarded: EtcdServer) -> None:
    await guarded.up()
    async with opened(guarded.url(login=f"root:{PASSWORD_IN_URL}@")) as store:
        before = time.monotonic()

        async def puts_for_longer() -> bool:
            await store.put("k", "1")
            return time.monotonic() > before + 2 * LOGIN_TTL_S

        await eventually(puts_for_longer)
        start = await store.put("k", "2")
        before = time.monotonic()
        await eventually(lambda: time.monotonic() > before + 2 * LOGIN_TTL_S)
        async with store.watch("k", after=start - 1) as batches:
            assert await values(batches, 1) == ["2"]
