"""Choose agents: what is free in one resource group, and who gets it.  Deterministic, no I/O.

Parts of sessions (see ``parts``) that differ only in their amounts share a *line*: the agents
that could run them, best first.  What an agent has left changes with each part that it gets; its
place in a line is mended when that line is used next.  So a part costs a look at the head of its
line, not at every agent.

Of two agents that have room the better one is, by the first of these in which they differ: one
where the session has not failed; the one with fewer kinds of accelerators that are not asked for;
one that has the images already; the one that the group's strategy prefers; the one whose id
comes first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ge

from backendai_jupyter.domain.groups import GroupPolicy, Strategy
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Amounts, Slots
from backendai_jupyter.manager.scheduler.parts import Part, Shape, ways
from backendai_jupyter.manager.scheduler.snapshot import Candidate

_NO_ACCELERATORS = frozenset({"cpu", "mem"})
_REMEMBERED = 8  # amounts that are known not to fit, for each line

_Front = dict[tuple[int, ...], int]  # what is free of some slots, and the agent's number
Rank = tuple[int, bool, float, int]  # smaller is better; the last is the agent's number


@dataclass(frozen=True, slots=True)
class Lack:
    """What a part asked for and one agent, which is the closest to enough, has not."""

    part: Part
    agent_id: str
    free: Slots
    shortfall: Slots


class _Node:
    """One agent during a pass."""

    __slots__ = ("candidate", "capacity", "free", "kinds", "turn")

    def __init__(self, candidate: Candidate, turn: int) -> None:
        self.candidate = candidate
        self.capacity = dict(candidate.capacity.to_amounts())
        self.free = dict(candidate.free.to_amounts())
        self.kinds = _accelerators(self.capacity)
        self.turn = turn  # the smaller, the sooner it is its turn

    def share(self, slots: Sequence[str]) -> float:
        """Return the free part of that slot of which least is free."""
        free, capacity = self.free, self.capacity
        return min([free.get(s, 0) / capacity[s] for s in slots if s in capacity], default=1.0)


@dataclass(frozen=True, slots=True)
class _Taken:
    part: Part
    number: int
    turn: int  # the agent's, before


class _Line:
    """The agents that could run kernels of one shape, best first."""

    def __init__(
        self, shape: Shape, nodes: Sequence[_Node], members: Sequence[int], least: Amounts
    ) -> None:
        self.members = members
        self.stale = set(members)  # those whose place has to be found
        self.refused: list[Amounts] = []  # that no member has room for
        self._slots = shape.slots
        self._nodes = nodes
        self._least = least
        self._ranks: dict[int, Rank] = {}
        self._best_first: list[Rank] = []
        needed = _accelerators(shape.slots)
        self.tiers = {
            number: (
                len(nodes[number].kinds - needed),
                not shape.images <= nodes[number].candidate.images,
            )
            for number in members
        }

    def best_first(self, strategy: Strategy) -> Sequence[Rank]:
        """Return those that have room for the smallest kernel of this shape that waits."""
        if len(self.stale) * 8 > len(self.members):  # sorting costs less than moving so many
            for number in self.stale:
                self._rank(number, strategy)
            self._best_first = sorted(self._ranks.values())
        else:
            for number in self.stale:
                if (old := self._ranks.get(number)) is not None:
                    del self._best_first[bisect_left(self._best_first, old)]
                if (new := self._rank(number, strategy)) is not None:
                    insort(self._best_first, new)
        self.stale.clear()
        return self._best_first

    def _rank(self, number: int, strategy: Strategy) -> Rank | None:
        node = self._nodes[number]
        self._ranks.pop(number, None)
        if not _covers(node.free, self._least):
            return None
        if strategy is Strategy.ROUND_ROBIN:
            key: float = node.turn
        else:
            share = node.share(self._slots)
            key = share if strategy is Strategy.CONCENTRATED else -share
        self._ranks[number] = rank = (*self.tiers[number], key, number)
        return rank


class Room:
    """What is free on the agents of one group; ``place`` takes of it.

    ``waiting`` are the sessions that may come, ``last_agent`` is the one that had the last
    turn.  Agents that are drained have no room.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        waiting: Sequence[WaitingSession],
        markers: Mapping[str, str],
        policy: GroupPolicy,
        *,
        last_agent: str = "",
    ) -> None:
        self.markers = markers
        self.candidates = tuple(sorted(candidates, key=lambda c: c.agent_id))
        self._policy = policy
        self._waiting = waiting
        usable = [c for c in self.candidates if not c.is_drained]
        turns = sorted(usable, key=lambda c: (c.agent_id <= last_agent, c.agent_id))
        turn_of = {c.agent_id: turn for turn, c in enumerate(turns)}
        self._nodes = [_Node(c, turn_of[c.agent_id]) for c in usable]
        self._turn = len(self._nodes)
        self._largest = _largest(self._nodes)
        self._least = _least(waiting)
        self._lines: dict[Shape, _Line] = {}
        self.swarms = sorted({c.swarm for c in usable} - {""})
        self._lacks: dict[tuple[Shape, Amounts], Lack | None] = {}
        self._fronts: dict[Shape, _Front] = {}
        self._when_empty: Room | None = None

    def place(
        self, session: WaitingSession, *, failed_on: Collection[str] = ()
    ) -> dict[str, str] | None:
        """Take room for all kernels of ``session`` and say where, or take nothing."""
        for parts in ways(session, self.swarms):
            taken: list[_Taken] = []
            if self._try(parts, failed_on, taken) is None:
                return {
                    kernel.id: self._nodes[t.number].candidate.agent_id
                    for t in taken
                    for kernel in t.part.kernels
                }
            self._give_back(taken)
        return None

    def could_hold(self, session: WaitingSession) -> bool:
        """Whether the session would fit if nothing ran in the group."""
        first = ways(session, self.swarms)[0]
        if len(first) == 1:
            members = self._line(first[0].shape).members
            return any(_covers(self._nodes[number].capacity, first[0].wanted) for number in members)
        if self._when_empty is None:
            empty = [replace(c, free=c.capacity) for c in self.candidates]
            self._when_empty = Room(empty, self._waiting, self.markers, self._policy)
        return self._when_empty._would_fit(session)

    def lack(self, session: WaitingSession) -> Lack | None:
        """Say what ``session`` lacks now; None if it fits, or if no agent could run it."""
        lacking: Lack | None = None
        for parts in ways(session, self.swarms):
            if len(parts) == 1:
                return self._lack(parts[0])
            taken: list[_Taken] = []
            part = self._try(parts, (), taken)
            found = None if part is None else self._lack(part)
            self._give_back(taken)
            if part is None:
                return None
            lacking = lacking or found
        return lacking

    def able(self, part: Part) -> Iterator[Candidate]:
        """Yield the agents that could run a part like this one, its amounts aside."""
        return (self._nodes[number].candidate for number in self._line(part.shape).members)

    def _would_fit(self, session: WaitingSession) -> bool:
        for parts in ways(session, self.swarms):
            taken: list[_Taken] = []
            refused = self._try(parts, (), taken)
            self._give_back(taken)
            if refused is None:
                return True
        return False

    def _try(
        self, parts: Sequence[Part], failed_on: Collection[str], taken: list[_Taken]
    ) -> Part | None:
        """Take room for part after part, largest first; return the one that has none."""
        for part in self._largest_first(parts):
            number = self._best(part, failed_on, is_trial=bool(taken))
            if number is None:
                return part
            node = self._nodes[number]
            taken.append(_Taken(part, number, node.turn))
            node.turn = self._turn = self._turn + 1
            self._change(number, part.wanted, -1)
        return None

    def _give_back(self, taken: Iterable[_Taken]) -> None:
        for t in taken:
            self._nodes[t.number].turn = t.turn
            self._change(t.number, t.part.wanted, 1)

    def _change(self, number: int, wanted: Amounts, sign: int) -> None:
        free = self._nodes[number].free
        for slot, amount in wanted:
            free[slot] += sign * amount
        for line in self._lines.values():
            if number in line.tiers:
                line.stale.add(number)
        self._lacks.clear()
        self._fronts.clear()

    def _best(self, part: Part, failed_on: Collection[str], *, is_trial: bool) -> int | None:
        line, wanted = self._line(part.shape), part.wanted
        if any(_exceeds(wanted, less) for less in line.refused):
            return None
        last_resort: int | None = None
        for *_, number in line.best_first(self._policy.strategy):
            node = self._nodes[number]
            if not _covers(node.free, wanted):
                continue
            if node.candidate.agent_id not in failed_on:
                return number
            last_resort = number if last_resort is None else last_resort
        if last_resort is None and not is_trial and len(line.refused) < _REMEMBERED:
            line.refused.append(wanted)  # beside trials, what is free only becomes less
        return last_resort

    def _lack(self, part: Part) -> Lack | None:
        shape = part.shape
        known = (shape, part.wanted)
        if known not in self._lacks:
            if shape not in self._fronts:
                self._fronts[shape] = _front(self._nodes, self._line(shape).members, shape.slots)
            self._lacks[known] = self._closest(part, self._fronts[shape])
        return self._lacks[known]

    def _closest(self, part: Part, front: _Front) -> Lack | None:
        """Return what the agent lacks that lacks fewest slots, of those the least part."""
        best: tuple[int, float, int] | None = None
        for free, number in front.items():
            count, parts = 0, 0.0
            for (_, wanted), amount in zip(part.wanted, free, strict=True):
                if wanted > amount:
                    count += 1
                    parts += (wanted - amount) / wanted
            if best is None or (count, parts, number) < best:
                best = count, parts, number
        if best is None or best[0] == 0:
            return None
        node = self._nodes[best[-1]]
        left = Slots.from_amounts((s, max(0, node.free.get(s, 0))) for s, _ in part.wanted)
        missing = Slots.from_amounts(part.wanted).shortfall(left)
        return Lack(part, node.candidate.agent_id, left, missing)

    def _largest_first(self, parts: Sequence[Part]) -> Sequence[Part]:
        if len(parts) == 1:
            return parts

        def size(part: Part) -> float:
            shares = [a / self._largest[s] for s, a in part.wanted if s in self._largest]
            return max(shares, default=0.0)

        return sorted(parts, key=lambda part: (-size(part), part.kernels[0].id))

    def _line(self, shape: Shape) -> _Line:
        line = self._lines.get(shape)
        if line is None:
            members = [n for n, node in enumerate(self._nodes) if self._may_run(node, shape)]
            least = tuple(self._least.get(shape.slots, {}).items())
            line = self._lines[shape] = _Line(shape, self._nodes, members, least)
        return line

    def _may_run(self, node: _Node, shape: Shape) -> bool:
        agent = node.candidate
        if not shape.can_network(agent) or agent.lacks(shape.hosts, self.markers) is not None:
            return False
        return all(agent.can_have(image) for image in shape.images)


def _front(nodes: Sequence[_Node], members: Iterable[int], slots: Sequence[str]) -> _Front:
    """Return the members than which none has as much of every slot: one of them is closest."""
    free: _Front = {}
    for number in members:
        has = nodes[number].free
        free.setdefault(tuple(max(0, has.get(slot, 0)) for slot in slots), number)
    front: _Front = {}
    for amounts in sorted(free, reverse=True):  # none is exceeded by one that comes later
        if not any(all(map(ge, others, amounts)) for others in front):
            front[amounts] = free[amounts]
    return front


def _covers(free: Mapping[str, int], wanted: Amounts) -> bool:
    for slot, amount in wanted:  # noqa: SIM110 - a generator takes three times as long
        if free.get(slot, 0) < amount:
            return False
    return True


def _exceeds(wanted: Amounts, less: Amounts) -> bool:
    """Whether ``wanted``, of the same slots, is nowhere less than ``less``."""
    return all(amount >= other for (_, amount), (_, other) in zip(wanted, less, strict=True))


def _accelerators(slots: Iterable[str]) -> frozenset[str]:
    """Return the kinds among the slots: ``cuda`` of ``cuda.device``."""
    return frozenset(slot.partition(".")[0] for slot in slots) - _NO_ACCELERATORS


def _largest(nodes: Iterable[_Node]) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in nodes:
        for slot, amount in node.capacity.items():
            found[slot] = max(amount, found.get(slot, 0))
    return found


def _least(waiting: Iterable[WaitingSession]) -> dict[tuple[str, ...], dict[str, int]]:
    """Return, by the slots asked for, the smallest amount of each that any kernel asks for."""
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for session in waiting:
        for kernel in session.kernels:
            slots = tuple(slot for slot, _ in kernel.wanted)
            least = found.setdefault(slots, dict(kernel.wanted))
            for slot, amount in kernel.wanted:
                if amount < least[slot]:
                    least[slot] = amount
    return found
