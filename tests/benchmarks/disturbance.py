"""What the output of one kernel, as fast as its client takes it, does to another kernel."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.channel import WITHIN_S, Address, Channel, Contender

ROUNDS, TRIPS = 12, 30
ENDLESS = "part = 'x' * 65535\nwhile True: print(part, flush=True)"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What a flood does to another kernel's round trips."""

    ratio: float  # disturbed by quiet, of trips that follow each other
    lone_ms: float  # that one takes longer before which the kernel was silent


async def disturbance_of(one: Contender) -> Disturbance:
    """Measure a kernel's round trips while another's output floods a client, and without that.

    Quiet rounds and disturbed ones take turns, so that a machine's slow minute is in both.
    """
    quiet, loud = await one.start(), await one.start()
    rounds: dict[str, list[float]] = defaultdict(list)
    spawn = multiprocessing.get_context("spawn")  # a client with a processor's time of its own
    with ProcessPoolExecutor(1, mp_context=spawn) as pool, spawn.Manager() as manager:
        async with Channel.open(quiet) as channel:
            for _ in range(ROUNDS):
                begun, ended = manager.Event(), manager.Event()
                await _ask(channel, rounds, "quiet")
                flood = asyncio.wrap_future(pool.submit(_drink, loud, begun, ended))
                await asyncio.to_thread(begun.wait, WITHIN_S)
                await _ask(channel, rounds, "disturbed")
                ended.set()
                await flood
                await one.interrupt(loud)
                async with Channel.open(loud):
                    """The kernel answers again: its flood is over."""
    for address in (quiet, loud):
        await one.end(address)
    typical_s = {name: statistics.median(taken_s) for name, taken_s in rounds.items()}
    return Disturbance(
        typical_s["disturbed"] / typical_s["quiet"],
        (typical_s["disturbed, lone"] - typical_s["quiet, lone"]) * 1e3,
    )


async def _ask(channel: Channel, rounds: dict[str, list[float]], when: str) -> None:
    """Note a round trip after a silence, and those that follow it."""
    rounds[f"{when}, lone"].append(await channel.trip_s())
    rounds[when] += [await channel.trip_s() for _ in range(TRIPS)]


def _drink(address: Address, begun: Any, ended: Any) -> None:
    async def drink() -> None:
        async with Channel.open(address) as channel:
            await channel.execute(ENDLESS)
            for _ in range(200):
                await channel.frame()
            begun.set()
            while not ended.is_set():  # a call to another process
                for _ in range(200):
                    await channel.frame()

    asyncio.run(drink())
