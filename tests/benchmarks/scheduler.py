"""How long the scheduler takes: ``python -m tests.benchmarks.scheduler``.

Times of the database are as on the wall, all others of this process on a CPU, so that they hardly
depend on what else runs.  *Pass*: ``decide`` alone, of sessions of ten shapes, cpu and GPU, in one
resource group; once where about all of them find room, and once where nothing has any (strict,
and with every one tried).  *Estimates*: how long it takes to say when the first of the queue may
start, where all slots are held by sessions that run.  *Database*, on SQLite and on a PostgreSQL
of its own that writes to the disk: to read what waits and what runs, to say why to those that
wait, and to claim.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy, HeadOfLine, Order, Strategy
from backendai_jupyter.domain.records import Occupant, Run, WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.manager.scheduler.admission import decide
from backendai_jupyter.manager.scheduler.estimate import estimate
from backendai_jupyter.manager.scheduler.runtimes import RunTimes
from backendai_jupyter.manager.scheduler.snapshot import Candidate, Placed, Snapshot
from backendai_jupyter.store import tables
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.rows import (
    allocation_values,
    first_of,
    kernel_values,
    session_values,
)
from backendai_jupyter.store.runs import REMEMBERED, RunStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from tests.postgres import running
from tests.unit.store.samples import new_session, report

GIB = 1 << 30
SESSIONS, AGENTS = (100, 1_000, 10_000), (10, 100, 1_000)
CLAIMS = 50
EACH = 10  # sessions that run on each agent, where estimates are made
NOW = 100_000.0
DURABLE = ("fsync=on", "full_page_writes=on", "synchronous_commit=on")
POLICIES = {
    "fifo, dispersed": GroupPolicy(),
    "fifo, concentrated": GroupPolicy(strategy=Strategy.CONCENTRATED),
    "drf, roundrobin": GroupPolicy(order=Order.DRF, strategy=Strategy.ROUND_ROBIN),
}
SKIP = GroupPolicy(head_of_line=HeadOfLine.SKIP, skip_after=0)


def main() -> None:
    say(f"{'pass [s]':28}{'sessions':>9}" + "".join(f"{n:>9} agents" for n in AGENTS))
    for n_sessions in SESSIONS:
        for name, policy in POLICIES.items():
            row(f"room, {name}", n_sessions, policy, is_full=False)
        row("no room, strict", n_sessions, GroupPolicy(), is_full=True)
        row("no room, all are tried", n_sessions, SKIP, is_full=True)
        row("no room, all shapes differ", n_sessions, SKIP, is_full=True, differ=True)
    for n_sessions in SESSIONS:
        foresee(n_sessions)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(database("SQLite", f"sqlite+aiosqlite:///{Path(directory) / 'b.sqlite'}"))
    with running(*DURABLE) as server:
        asyncio.run(database("PostgreSQL", server.url))


def row(
    name: str, n_sessions: int, policy: GroupPolicy, *, is_full: bool, differ: bool = False
) -> None:
    taken = []
    for n_agents in AGENTS:
        snapshot = Snapshot(
            now=0,
            candidates=tuple(agents(n_agents, is_full=is_full)),
            waiting=tuple(sessions(n_sessions, differ=differ)),
            policies={DEFAULT_GROUP: policy},
        )
        began = time.process_time()
        decisions = decide(snapshot)
        taken_s = time.process_time() - began
        placed = sum(isinstance(decision, Placed) for decision in decisions)
        taken.append(f"{taken_s:8.3f} {placed:>6}")
    say(f"{name:28}{n_sessions:>9}" + " ".join(taken))


def agents(count: int, *, is_full: bool) -> Iterator[Candidate]:
    """Yield nodes of 64 cpu and 512 GiB, each fourth with 8 devices; all in use but for a rest."""
    for number in range(count):
        devices = {"cuda.device": 8} if number % 4 == 0 else {}
        capacity = Slots({"cpu": 64, "mem": 512 * GIB, **devices})
        free = Slots({"cpu": "0.5", "mem": 512 * GIB}) if is_full else capacity  # type: ignore[dict-item]
        yield Candidate(f"agent{number:04}", capacity, free, frozenset({"python", "r"}))


def sessions(count: int, *, differ: bool) -> Iterator[WaitingSession]:
    chance = random.Random(7)
    for number in range(count):
        cpu, size = chance.choice([(1, 2), (2, 4), (4, 16), (8, 32)])
        devices = {"cuda.device": 1} if chance.random() < 0.1 else {}
        mem = size * GIB + (number if differ else 0)
        wanted = Slots({"cpu": cpu, "mem": mem, **devices}).to_amounts()
        image = chance.choice(["python", "python", "r"])
        yield WaitingSession(
            f"s{number:05}",
            owner=f"u{chance.randrange(50)}",
            group=DEFAULT_GROUP,
            priority=10,
            created_at=number,
            kernels=(WaitingKernel(f"s{number:05}", image, wanted),),
        )


def foresee(n_sessions: int) -> None:
    """Estimates: of agents whose every slot is held, by sessions with a history."""
    taken = []
    for n_agents in AGENTS:
        candidates = list(agents(n_agents, is_full=True))
        waiting = tuple(sessions(n_sessions, differ=False))
        snapshot = Snapshot(NOW, tuple(candidates), waiting)
        chance = random.Random(7)
        there = [
            Occupant(f"r{agent.agent_id}{n}", f"u{n}", "", DEFAULT_GROUP, NOW - n, False, holds)
            for agent in candidates
            for n in range(EACH)
            for devices in [agent.capacity["cuda.device"] * (n == 0)]
            for holds in [
                ((agent.agent_id, Slots({"cpu": 6, "cuda.device": devices}).to_amounts()),)
            ]
        ]
        runs = [
            Run(f"u{chance.randrange(50)}", "", DEFAULT_GROUP, chance.uniform(60, 7200))
            for _ in range(REMEMBERED)
        ]
        decisions = decide(snapshot)
        began = time.process_time()
        found = estimate(snapshot, decisions, there, RunTimes(runs))
        taken.append(f"{time.process_time() - began:8.3f} {len(found):>6}")
    say(f"{'estimates':28}{n_sessions:>9}" + " ".join(taken))


async def database(name: str, url: str) -> None:
    """Read, tell and claim; what a claim takes is the median of some."""
    await upgrade(url)
    opened = await Database.open(url)
    owner = await UserStore(opened).ensure_owner(now=1.0)
    queue, runs = QueueStore(opened), RunStore(opened)
    known, made = 0, 0
    head = "".join(f"{what:>11}" for what in ("read", "usage", "runs", "tell all", "claim one"))
    say(f"{name + ' [s]':20}{'waiting':>9}{'agents':>8}{head}")
    for n_sessions in SESSIONS:
        for n_agents in AGENTS:
            for number in range(known, n_agents):
                said = report(f"agent{number:04}", cpu=64, mem=512 * GIB)
                await AgentStore(opened).record(said, now=1.0)
            known = max(known, n_agents)
            missing = n_sessions - len(await queue.waiting("here"))
            await fill(opened, owner.id, range(made, made + missing))
            made += missing
            taken = await timed(
                lambda: queue.waiting("here"),
                lambda: queue.usage("here"),
                lambda: runs.occupants("here"),
                partial(tell_all, queue, f"Number {made}."),
            )
            each_s = await claim_some(SessionStore(opened), queue, n_agents)
            say(
                f"{'':20}{n_sessions:>9}{n_agents:>8}"
                + "".join(f"{one:11.3f}" for one in taken)
                + f"{each_s:11.4f}"
            )
    await opened.close()


async def timed(*calls: Callable[[], Awaitable[object]]) -> list[float]:
    taken = []
    for call in calls:
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return taken


async def tell_all(queue: QueueStore, reason: str) -> None:
    await queue.tell({session.id: reason for session in await queue.waiting("here")})


async def claim_some(store: SessionStore, queue: QueueStore, n_agents: int) -> float:
    taken = []
    for number, session in enumerate((await queue.waiting("here"))[:CLAIMS]):
        place = {session.kernels[0].id: f"agent{number % n_agents:04}"}
        began = time.perf_counter()
        await store.claim(session.id, place, reason="", by="benchmark", now=1.0)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def fill(opened: Database, owner: str, numbers: Iterable[int]) -> None:
    """Write sessions that wait, many at once."""
    slots = Slots({"cpu": 1, "mem": GIB})
    made = [
        first_of(
            new_session(id=f"s{n:06}", kernel_id=f"k{n:06}", owner=owner, slots=slots, mounts=()),
            float(n),
        )
        for n in numbers
    ]
    async with opened.write() as conn:
        for table, values in (
            (tables.sessions, [session_values(one) for one in made]),
            (tables.kernels, [kernel_values(one.main) for one in made]),
            (tables.allocations, [row for one in made for row in allocation_values(one.main)]),
        ):
            if values:
                await conn.execute(sa.insert(table), values)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
