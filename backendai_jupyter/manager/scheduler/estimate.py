"""Estimate when sessions that wait will start.  Deterministic, no I/O.

The queue is played through to its end twice: once as if everything took as short as a quarter of
its like did, once as long.  What nobody knows the run time of may end at once, or never.  A place
is the first agent with room.  So an estimate is a range, or only a time before which it cannot
be, or there is none.  Nobody knows what will be asked for meanwhile.

Only the first sessions of each queue are looked at, and only so many agents in all: that bounds
what it costs, whatever waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from backendai_jupyter.domain.groups import HeadOfLine
from backendai_jupyter.domain.records import Occupant, WaitingSession
from backendai_jupyter.domain.resources import Amounts
from backendai_jupyter.manager.scheduler.parts import Part, Shape, ways
from backendai_jupyter.manager.scheduler.runtimes import RunTimes
from backendai_jupyter.manager.scheduler.snapshot import (
    Candidate,
    Decision,
    Estimate,
    Placed,
    Snapshot,
    Waiting,
    Why,
)

FIRST = 100  # of each queue
MOST_LOOKS = 400_000  # at an agent, in all: a fraction of a second
_IN_LINE = frozenset({Why.ROOM, Why.TURN})
_SHORT, _LONG = 0, 1  # which quartile

_Held = tuple[int, Amounts]  # an agent's number, and what is held of it
_Release = tuple[float, int, Sequence[_Held]]  # when; the second only makes an order


def estimate(
    snapshot: Snapshot,
    decisions: Iterable[Decision],
    occupants: Sequence[Occupant],
    times: RunTimes,
) -> dict[str, Estimate]:
    """Return when those of ``decisions`` that wait may start, by id, as far as anybody can say."""
    waiting: dict[str, list[Waiting]] = {}
    placed: list[Placed] = []
    for decision in decisions:
        if isinstance(decision, Placed):
            placed.append(decision)
        else:
            waiting.setdefault(decision.session.group, []).append(decision)
    looks = _Looks(MOST_LOOKS)
    found: dict[str, Estimate] = {}
    ends = {one.id: snapshot.now + _left(one, snapshot.now, times)[_SHORT] for one in occupants}
    for group in sorted(waiting) if times else ():
        line = [d.session for d in waiting[group] if d.why in _IN_LINE][:FIRST]
        play = _Play(snapshot, group, placed, occupants, times, looks)
        for session, estimated in zip(line, play.estimates(line), strict=True):
            if estimated is not None:
                found[session.id] = estimated
                ends[session.id] = estimated.earliest + times.left(session)[_SHORT]
    later = [d.session for one in waiting.values() for d in one if d.why not in _IN_LINE]
    found.update(_not_before(snapshot.now, later, ends, times))
    return found


def _not_before(
    now: float, waiting: Sequence[WaitingSession], ends: dict[str, float], times: RunTimes
) -> Iterator[tuple[str, Estimate]]:
    """Yield of those that are not in line yet when they may be, at the earliest."""
    for session in sorted(waiting, key=lambda s: (s.created_at, s.id)):  # parents come first
        after = max((ends.get(parent.id, now) for parent in session.parents), default=now)
        earliest = max(after, session.not_before)
        if earliest > now:
            ends[session.id] = earliest + times.left(session)[_SHORT]
            yield session.id, Estimate(earliest)


def _left(one: Occupant, now: float, times: RunTimes) -> tuple[float, float]:
    if one.is_ending:
        return 0.0, 0.0
    return times.left(one, elapsed_s=max(0.0, now - one.since) if one.since else 0.0)


@dataclass(slots=True)
class _Looks:
    left: int


class _Play:
    """What becomes of one resource group."""

    def __init__(
        self,
        snapshot: Snapshot,
        group: str,
        placed: Iterable[Placed],
        occupants: Iterable[Occupant],
        times: RunTimes,
        looks: _Looks,
    ) -> None:
        self._now, self._markers = snapshot.now, snapshot.markers
        usable = (c for c in snapshot.candidates if c.group == group and not c.is_drained)
        self._agents: list[Candidate] = sorted(usable, key=lambda c: c.agent_id)
        numbers = {c.agent_id: number for number, c in enumerate(self._agents)}
        self._free = [dict(c.free.to_amounts()) for c in self._agents]
        self._times, self._looks = times, looks
        self._passes = snapshot.policy(group).head_of_line is HeadOfLine.SKIP
        self._held: list[tuple[tuple[float, float], Sequence[_Held]]] = []
        placed = list(placed)
        new = {decision.session.id for decision in placed}  # and may hold its slots meanwhile
        for one in occupants:
            if one.id in new:
                continue
            mine = [(numbers[a], amounts) for a, amounts in one.holds if a in numbers]
            if mine:
                self._held.append((_left(one, self._now, times), mine))
        for decision in placed:
            kernels = {k.id: k.wanted for k in decision.session.kernels}
            agents = decision.agents.items()
            mine = [(numbers[a], kernels[k]) for k, a in agents if a in numbers]
            for number, amounts in mine:
                _change(self._free[number], amounts, -1)
            if mine:
                self._held.append((times.left(decision.session), mine))
        self._swarms = sorted({c.swarm for c in self._agents} - {""})
        self._able: dict[Shape, list[int]] = {}

    def estimates(self, line: Sequence[WaitingSession]) -> Iterator[Estimate | None]:
        """Yield an estimate for each, in the order of the queue.

        Where others may pass one that lacks room, it may start before all that are before it,
        and nobody knows who passes it.
        """
        if self._passes:
            for session in line:
                (start,) = self._starts([session], _SHORT)
                yield self._range(start, math.inf)
            return
        starts = zip(self._starts(line, _SHORT), self._starts(line, _LONG), strict=True)
        for short, long in starts:
            yield self._range(min(short, long), max(short, long))

    def _range(self, earliest: float, latest: float) -> Estimate | None:
        if math.isinf(earliest) or (math.isinf(latest) and earliest <= self._now):
            return None
        return Estimate(earliest, None if math.isinf(latest) else latest)

    def _starts(self, line: Sequence[WaitingSession], which: int) -> list[float]:
        """Return when each of ``line`` starts if none passes another; infinity is unknown."""
        free = [dict(amounts) for amounts in self._free]
        order = count()
        releases: list[_Release] = [
            (self._now + left[which], next(order), held)
            for left, held in self._held
            if not math.isinf(left[which])
        ]
        heapify(releases)
        at, found = self._now, []
        for session in line:
            held = self._place(session, free)
            while held is None and releases and self._looks.left > 0:
                at = max(at, releases[0][0])
                changed = _release(releases, free, until=at)
                held = self._place(session, free, changed)
            if held is None:
                break
            found.append(at)
            end = at + self._times.left(session)[which]
            if not math.isinf(end):
                heappush(releases, (end, next(order), held))
        return found + [math.inf] * (len(line) - len(found))

    def _place(
        self,
        session: WaitingSession,
        free: Sequence[dict[str, int]],
        changed: frozenset[int] | None = None,
    ) -> Sequence[_Held] | None:
        """Take room for all kernels, or nothing; only ``changed`` agents have more than before."""
        for parts in ways(session, self._swarms):
            held = self._take(parts, free, changed if len(parts) == 1 else None)
            if held is not None:
                return held
        return None

    def _take(
        self,
        parts: Sequence[Part],
        free: Sequence[dict[str, int]],
        changed: frozenset[int] | None,
    ) -> Sequence[_Held] | None:
        held: list[_Held] = []
        for part in parts:
            numbers: Iterable[int] = self._members(part.shape)
            if changed is not None:
                numbers = sorted(changed.intersection(numbers))
            number = self._first(part.wanted, numbers, free)
            if number is None:
                for other, amounts in held:
                    _change(free[other], amounts, 1)
                return None
            _change(free[number], part.wanted, -1)
            held.append((number, part.wanted))
        return held

    def _first(
        self, wanted: Amounts, numbers: Iterable[int], free: Sequence[Mapping[str, int]]
    ) -> int | None:
        looked, found = 0, None
        for number in numbers:
            looked += 1
            has = free[number]
            if all(has.get(slot, 0) >= amount for slot, amount in wanted):
                found = number
                break
        self._looks.left -= looked
        return found

    def _members(self, shape: Shape) -> list[int]:
        """Return the agents that could run a part like this one, its amounts aside."""
        if shape not in self._able:
            self._able[shape] = [
                number
                for number, agent in enumerate(self._agents)
                if all(agent.can_have(image) for image in shape.images)
                and agent.lacks(shape.hosts, self._markers) is None
                and shape.can_network(agent)
            ]
        return self._able[shape]


def _release(
    releases: list[_Release], free: Sequence[dict[str, int]], *, until: float
) -> frozenset[int]:
    """Give back all that ends ``until`` then; return the agents that have more now."""
    changed = set()
    while releases and releases[0][0] <= until:
        for number, amounts in heappop(releases)[-1]:
            _change(free[number], amounts, 1)
            changed.add(number)
    return frozenset(changed)


def _change(free: dict[str, int], amounts: Amounts, sign: int) -> None:
    for slot, amount in amounts:
        free[slot] = free.get(slot, 0) + sign * amount
