"""One leader, never two: with the store in memory, on etcd, and across processes."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from backendai_jupyter.cluster.leadership import Leadership
from backendai_jupyter.cluster.memory import MemoryClusterStore
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.cluster.stores import open_cluster_store
from backendai_jupyter.supervisor import Supervisor
from tests.contract.clock import SettableClock
from tests.helpers import eventually
from tests.services import EtcdServer, Wire

KEY = "leadership/manager"


class Candidate:
    """One in this process, with how often it was told of a change."""

    def __init__(self, store: ClusterStore, name: str, ttl_s: float) -> None:
        self.changes = 0
        self.able = True
        self.supervisor = Supervisor()
        self.leadership = Leadership(
            store, KEY, name, ttl_s=ttl_s, able=lambda: self.able, on_change=self._note
        )
        self.supervisor.task(name, self.leadership.run())

    @property
    def is_leader(self) -> bool:
        return self.leadership.is_leader

    async def resign(self) -> None:
        await self.supervisor.close()

    def _note(self) -> None:
        self.changes += 1


@asynccontextmanager
async def candidates(*stores: ClusterStore, ttl_s: float = 5.0) -> AsyncIterator[list[Candidate]]:
    made = [Candidate(store, f"m{number}", ttl_s) for number, store in enumerate(stores)]
    try:
        yield made
    finally:
        await asyncio.gather(*(candidate.resign() for candidate in made))


async def leader_among(made: list[Candidate], within_s: float = 10.0) -> Candidate:
    await eventually(lambda: any(c.is_leader for c in made), within_s=within_s)
    (leader,) = [c for c in made if c.is_leader]
    return leader


async def test_one_leads_and_when_it_resigns_another_one_does(store: ClusterStore) -> None:
    async with candidates(store, store, store) as made:
        first = await leader_among(made)
        before = time.monotonic()
        await first.resign()
        assert not first.is_leader
        second = await leader_among(made)
        assert second is not first
        assert time.monotonic() - before < 4  # else its time would run out
        assert (first.changes, second.changes) == (2, 1)


async def test_one_that_is_not_able_to_lead_makes_room_until_it_is(store: ClusterStore) -> None:
    async with candidates(store, store) as made:
        first = await leader_among(made)
        first.able = False
        await eventually(lambda: not first.is_leader)
        second = await leader_among(made)
        assert second is not first
        first.able, second.able = True, False
        await eventually(lambda: first.is_leader)


async def test_the_place_can_be_taken_away_by_hand(store: ClusterStore) -> None:
    async with candidates(store) as (only,):
        await leader_among([only])
        await store.delete(KEY)
        await eventually(lambda: only.changes == 3)
        assert only.is_leader


async def test_whoever_gets_the_place_by_hand_makes_the_leader_follow(store: ClusterStore) -> None:
    async with candidates(store) as (only,):
        await leader_among([only])
        await store.put(KEY, "an administrator")
        await eventually(lambda: only.changes == 2)
        assert not only.is_leader
        await store.delete(KEY)
        await leader_among([only])


async def test_a_leader_that_was_held_up_for_too_long_does_not_believe_it_leads() -> None:
    clock = SettableClock()
    store = MemoryClusterStore(clock=clock)
    async with candidates(store, ttl_s=10) as (only,):
        await leader_among([only])
        clock.now = 9.9
        assert only.is_leader
        clock.now = 10
        assert not only.is_leader


async def test_a_leader_that_is_cut_off_steps_down_before_another_one_is_elected(
    etcd: EtcdServer, prefix: str
) -> None:
    wire = Wire(etcd.port)
    port = await wire.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(wire.close)
        far = await stack.enter_async_context(
            open_cluster_store(f"etcd://127.0.0.1:{port}/{prefix}")
        )
        near = await stack.enter_async_context(open_cluster_store(etcd.url(prefix)))
        async with candidates(far, ttl_s=2) as (old,):
            await leader_among([old])
            async with candidates(near, ttl_s=2) as (new,):
                wire.cut()

                def is_over() -> bool:
                    assert not (old.is_leader and new.is_leader)
                    return new.is_leader

                await eventually(is_over)
                wire.join()
            await leader_among([old])


class Process:
    """A candidate in a process of its own; see ``candidate.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self, words: str) -> None:
        assert await self._line() == words

    async def ask(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(b"?\n")
        return await self._line()

    def send(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def question(self) -> None:
        """Ask now what is answered later."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"?\n")

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def process(url: str, name: str, ttl_s: float) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.candidate", url, KEY, name, str(ttl_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(started)
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_another_process_leads_soon_after_the_leader_was_killed(
    etcd: EtcdServer, prefix: str
) -> None:
    async with process(etcd.url(prefix), "m0", 2) as first:
        await first.says("leads")
        async with process(etcd.url(prefix), "m1", 2) as second:
            assert await second.ask() == "follows"
            before = time.monotonic()
            first.send(signal.SIGKILL)
            await second.says("leads")
            assert time.monotonic() - before < 10  # its time, and some for etcd and a busy machine


async def test_a_leader_that_was_stopped_for_longer_than_its_lease_does_not_believe_it_leads(
    etcd: EtcdServer, prefix: str
) -> None:
    async with process(etcd.url(prefix), "m0", 2) as first:
        await first.says("leads")
        async with process(etcd.url(prefix), "m1", 2) as second:
            assert await second.ask() == "follows"
            first.send(signal.SIGSTOP)
            await second.says("leads")
            first.question()  # so that it is the first thing that it sees
            first.send(signal.SIGCONT)
            await first.says("follows")
            assert await second.ask() == "leads"
