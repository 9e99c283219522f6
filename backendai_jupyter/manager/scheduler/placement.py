"""Order pending sessions and choose an agent for each.  Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.resources import Slots, amount_for_people
from backendai_jupyter.errors import NeverFits


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent as the scheduler sees it."""

    agent_id: str
    capacity: Slots
    free: Slots
    images: frozenset[str]
    vfolder_hosts: Mapping[str, str] = field(default_factory=dict)  # marker's id by name
    is_drained: bool = False
    pullable: frozenset[str] = frozenset()  # images that it fetches when they are needed

    def can_have(self, image: str) -> bool:
        return image in self.images or image in self.pullable

    def lacks(self, kernel: Kernel, markers: Mapping[str, str]) -> str | None:
        """Return a vfolder host that ``kernel`` needs and this agent has not, or as another disk.

        ``markers`` are what the hosts are to the manager; one that it has not either is
        lacking everywhere.
        """
        needed = sorted({mount.vfolder_host for mount in kernel.mounts} - {""})
        for host in needed:
            if host not in markers or self.vfolder_hosts.get(host) != markers[host]:
                return host
        return None


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
    queue: Sequence[ComputeSession],
    candidates: Sequence[Candidate],
    markers: Mapping[str, str],
) -> Iterator[Placed | Waiting]:
    """Decide each session of ``queue`` in order, all of its kernels or none.

    ``markers`` are the ids in the markers of the manager's vfolder hosts, by name.  What is
    placed reduces the room of those behind it.  A session that does not fit waits, and does
    not keep smaller ones behind it from starting.
    """
    room = list(candidates)
    for position, session in enumerate(queue, start=1):
        trial = list(room)
        agents: dict[str, str] = {}
        for kernel in session.kernels:
            able = [c for c in trial if not c.is_drained and not c.lacks(kernel, markers)]
            chosen = disperse(able, kernel.slots, kernel.image)
            if chosen is None:
                why = _why_full(able, kernel, position) or _why_nobody(trial, kernel, markers)
                yield Waiting(session, why)
                break
            agents[kernel.id] = chosen.agent_id
            trial = [_less(c, kernel.slots) if c is chosen else c for c in trial]
        else:
            room = trial
            yield Placed(session, agents)


def disperse(candidates: Sequence[Candidate], request: Slots, image: str) -> Candidate | None:
    """Pick the emptiest agent that fits and has the image, else one that can fetch it.

    Emptiness is the smallest free share of any requested slot; ties break on ``agent_id``,
    which makes a placement reproducible from the snapshot.
    """
    fitting = [c for c in candidates if c.can_have(image) and request.fits_in(c.free)]
    having = [c for c in fitting if image in c.images] or fitting
    return min(having, key=lambda c: (-_free_share(c, request), c.agent_id), default=None)


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


def _why_nobody(candidates: Sequence[Candidate], kernel: Kernel, markers: Mapping[str, str]) -> str:
    """Say why no agent can show the folders of ``kernel``, by way of the first agent."""
    if not candidates:
        return "Waiting for an agent: none is alive."
    candidates = [c for c in candidates if not c.is_drained]
    if not candidates:
        return "Waiting for an agent: those that are alive are drained, and start nothing new."
    host = candidates[0].lacks(kernel, markers) or ""
    if host not in markers:
        return f"Waiting for the vfolder host {host!r}: this server does not have it mounted."
    wrong = [c for c in candidates if c.vfolder_hosts.get(host, markers[host]) != markers[host]]
    if not wrong:
        return f"Waiting for an agent that has the vfolder host {host!r} mounted."
    return (
        f"Waiting for an agent that has the vfolder host {host!r}: something else is mounted in "
        f"its place (its marker file differs) on {', '.join(c.agent_id for c in wrong)}."
    )


def _why_full(candidates: Sequence[Candidate], kernel: Kernel, position: int) -> str:
    """Say what none of ``candidates`` has; nothing if there are none."""
    if not candidates:
        return ""
    request, image = kernel.slots, kernel.image
    having = [c for c in candidates if c.can_have(image)]
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
