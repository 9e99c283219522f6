"""Order pending sessions and choose an agent for each.  Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.resources import Slots, amount_for_people
from backendai_jupyter.errors import NeverFits


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent as the scheduler sees it."""

    agent_id: str
    capacity: Slots
    free: Slots
    images: frozenset[str]


@dataclass(frozen=True, slots=True)
class Placed:
    session: ComputeSession
    agents: Mapping[str, str]  # kernel id -> agent id


@dataclass(frozen=True, slots=True)
class Waiting:
    session: ComputeSession
    reason: str  # a sentence for the owner


def order(pending: Sequence[ComputeSession]) -> list[ComputeSession]:
    """Return the queue: higher priority first, then first come, first served."""
    return sorted(pending, key=lambda s: (-s.priority, s.created_at, s.id))


def place(
    queue: Sequence[ComputeSession], candidates: Sequence[Candidate]
) -> Iterator[Placed | Waiting]:
    """Decide each session of ``queue`` in order, all of its kernels or none.

    What is placed reduces the room of those behind it.  A session that does not fit waits,
    and does not keep smaller ones behind it from starting.
    """
    room = list(candidates)
    for position, session in enumerate(queue, start=1):
        trial = list(room)
        agents: dict[str, str] = {}
        for kernel in session.kernels:
            chosen = disperse(trial, kernel.slots, kernel.image)
            if chosen is None:
                yield Waiting(session, _why_not(trial, kernel.slots, kernel.image, position))
                break
            agents[kernel.id] = chosen.agent_id
            trial = [_less(c, kernel.slots) if c is chosen else c for c in trial]
        else:
            room = trial
            yield Placed(session, agents)


def disperse(candidates: Sequence[Candidate], request: Slots, image: str) -> Candidate | None:
    """Pick the emptiest agent that has the image and fits, so that load is spread.

    Emptiness is the smallest free share of any requested slot; ties break on ``agent_id``,
    which makes a placement reproducible from the snapshot.
    """
    fitting = [c for c in candidates if image in c.images and request.fits_in(c.free)]
    return min(fitting, key=lambda c: (-_free_share(c, request), c.agent_id), default=None)


def check_can_ever_fit(candidates: Sequence[Candidate], request: Slots) -> None:
    """Raise ``NeverFits`` naming the slot if no agent could run this even when empty.

    Without any agent nothing is known, and the request may wait.
    """
    if not candidates or any(request.fits_in(c.capacity) for c in candidates):
        return
    closest = min(candidates, key=lambda c: (len(request.shortfall(c.capacity)), c.agent_id))
    slot = next(iter(request.shortfall(closest.capacity)))
    largest = max(c.capacity[slot] for c in candidates)
    raise NeverFits(
        slot,
        f"No agent can ever run this: it asks for {slot} {amount_for_people(slot, request[slot])}, "
        f"and the largest agent has {amount_for_people(slot, largest)} in all.",
    )


def _free_share(candidate: Candidate, request: Slots) -> Decimal:
    shares = (candidate.free[s] / candidate.capacity[s] for s in request)
    return min(shares, default=Decimal(1))


def _less(candidate: Candidate, taken: Slots) -> Candidate:
    return replace(candidate, free=candidate.free - taken)


def _why_not(candidates: Sequence[Candidate], request: Slots, image: str, position: int) -> str:
    if not candidates:
        return "Waiting for an agent: none is alive."
    having = [c for c in candidates if image in c.images]
    if not having:
        return f"Waiting for an agent that has the image {image!r}: none has it."
    closest = min(having, key=lambda c: (len(request.shortfall(c.free)), c.agent_id))
    missing = ", ".join(
        f"{slot} {amount_for_people(slot, request[slot])} was asked for and "
        f"{amount_for_people(slot, max(closest.free[slot], Decimal(0)))} is free"
        for slot in request.shortfall(closest.free)
    )
    return (
        f"Waiting for room: {missing} on agent {closest.agent_id}. "
        f"It is number {position} in the queue and starts when other kernels end."
    )
