"""How long the scheduler takes: ``python -m tests.benchmarks.scheduler``.

*Pass*: ``decide`` alone, of sessions of ten shapes, cpu and GPU, in one resource group; once
where about all of them find room, and once where nothing has any (strict, and with every one
tried).  *Database*, on SQLite: to read what waits, to claim, and to say why to those that wait.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy, HeadOfLine, Order, Strategy
from backendai_jupyter.domain.records import WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.manager.scheduler.admission import decide
from backendai_jupyter.manager.scheduler.snapshot import Candidate, Placed, Snapshot
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from tests.unit.store.samples import new_session, report

GIB = 1 << 30
SESSIONS, AGENTS = (100, 1_000, 10_000), (10, 100, 1_000)
CLAIMS = 50
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
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(database(f"sqlite+aiosqlite:///{Path(directory) / 'b.sqlite'}"))


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
        began = time.perf_counter()
        decisions = decide(snapshot)
        taken_s = time.perf_counter() - began
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


async def database(url: str) -> None:
    await upgrade(url)
    opened = await Database.open(url)
    owner = await UserStore(opened).ensure_owner(now=1.0)
    store, queue = SessionStore(opened), QueueStore(opened)
    await AgentStore(opened).record(report("a", cpu=10**6, mem=10**6 * GIB), now=1.0)
    made = 0
    say(f"{'database [s]':28}{'waiting':>9}{'read':>9}{'usage':>9}{'tell all':>9}{'claim one':>11}")
    for n_sessions in SESSIONS:
        for number in range(made, n_sessions):
            slots = Slots({"cpu": 1, "mem": GIB})
            new = new_session(id=f"s{number}", kernel_id=f"k{number}", owner=owner.id, slots=slots)
            await store.create(replace(new, mounts=()), now=float(number))
        made = n_sessions
        began = time.perf_counter()
        waiting = await queue.waiting("here")
        read = time.perf_counter()
        await queue.usage("here")
        used = time.perf_counter()
        await queue.tell({session.id: f"Number {n_sessions}." for session in waiting})
        told = time.perf_counter()
        for session in waiting[:CLAIMS]:
            place = {session.kernels[0].id: "a"}
            await store.claim(session.id, place, reason="", by="benchmark", now=1.0)
        each_s = (time.perf_counter() - told) / min(CLAIMS, len(waiting))
        say(
            f"{'':28}{len(waiting):>9}{read - began:9.3f}{used - read:9.3f}"
            f"{told - used:9.3f}{each_s:11.4f}"
        )
    await opened.close()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
