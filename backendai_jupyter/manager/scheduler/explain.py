"""Say in words why a session waits.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots, amount_for_people
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import NeverFits
from backendai_jupyter.manager.scheduler.parts import Part, ways
from backendai_jupyter.manager.scheduler.placement import Lack, Room
from backendai_jupyter.manager.scheduler.snapshot import Candidate

_NAMED = 3  # sessions that one depends on
EXACT = 10  # places that are said exactly: each other one would be written at every change
_NO_NETWORK = {
    ClusterMode.SINGLE_NODE: "Waiting for an agent that can give kernels a network of their own.",
    ClusterMode.MULTI_NODE: (
        "Waiting for agents of one Docker Swarm: only those can give kernels on several nodes a "
        "network of their own."
    ),
}
DEFECT = "The scheduler cannot judge it and goes on with others; the server's log says why."


def check_can_ever_fit(candidates: Sequence[Candidate], request: Slots, kernels: int = 1) -> None:
    """Raise ``NeverFits`` naming the slot if no agent could run this even when empty.

    ``request`` is for ``kernels`` on one agent together.  Without any agent nothing is known, and
    the request may wait.
    """
    if not candidates or any(request.fits_in(c.capacity) for c in candidates):
        return
    slot, largest = _too_large(candidates, request)
    if not any(c.capacity[slot] for c in candidates):
        known = ", ".join(Slots.total(c.capacity for c in candidates))
        raise NeverFits(slot, f"No agent has the slot {slot}; those that there are have {known}.")
    asks = "it asks" if kernels == 1 else f"its {kernels} kernels on one agent ask"
    raise NeverFits(
        slot,
        f"No agent can ever run this: {asks} for {slot} "
        f"{amount_for_people(slot, request[slot])}, "
        f"and the largest agent has {largest} in all.",
    )


def why_no_room(lack: Lack, position: int, group: str) -> str:
    request = Slots.from_amounts(lack.part.wanted)
    missing = ", ".join(
        f"{slot} {amount_for_people(slot, request[slot])} was asked for and "
        f"{amount_for_people(slot, lack.free[slot])} is free"
        for slot in lack.shortfall
    )
    kernels = len(lack.part.kernels)
    for_whom = f" for its {kernels} kernels together" if kernels > 1 else ""
    return (
        f"Waiting for room{for_whom}: {missing} on agent {lack.agent_id}. "
        f"It is {_place(position)} in the queue of resource group {group!r} "
        "and starts when other kernels end."
    )


def why_not_its_turn(position: int, group: str) -> str:
    return (
        f"Waiting for its turn: it is {_place(position)} in the queue of resource group "
        f"{group!r}, and one before it waits for room."
    )


def why_not_yet(session: WaitingSession) -> str:
    at = datetime.fromtimestamp(session.not_before, UTC)
    return f"Waiting for its time: it is not to start before {at:%Y-%m-%d %H:%M:%S} UTC."


def why_not_after(session: WaitingSession) -> str:
    named = [f"{parent.name!r} ({parent.id})" for parent in session.parents[:_NAMED]]
    more = len(session.parents) - len(named)
    which = " and ".join([*named, f"{more} more"] if more else named)
    what = "session" if len(session.parents) == 1 else "sessions"
    return f"Waiting for the end of {what} {which}, on which it depends."


def why_no_agent(room: Room, session: WaitingSession) -> str:
    """Say why no agent of the group could run ``session``, whatever else runs there."""
    group, candidates = session.group, room.candidates
    if not candidates:
        return f"Waiting for an agent: none of resource group {group!r} is alive."
    candidates = tuple(c for c in candidates if not c.is_drained)
    if not candidates:
        return "Waiting for an agent: those that are alive are drained, and start nothing new."
    for part in ways(session, room.swarms)[0]:
        able = tuple(room.able(part))
        if not able:
            return _why_nobody_is_able(candidates, part, room.markers)
        request = Slots.from_amounts(part.wanted)
        if not any(request.fits_in(c.capacity) for c in able):
            slot, largest = _too_large(able, request)
            asked = amount_for_people(slot, request[slot])
            return (
                f"Waiting for a larger agent: it asks for {slot} {asked}, and the largest that "
                f"starts new kernels has {largest} in all."
            )
    return "Waiting for more agents: those that start new kernels cannot hold all its kernels."


def _why_nobody_is_able(
    candidates: Sequence[Candidate], part: Part, markers: Mapping[str, str]
) -> str:
    hosts, image = part.shape.hosts, part.kernels[0].image
    mounting = [c for c in candidates if c.lacks(hosts, markers) is None]
    if any(c.can_have(image) for c in mounting) and part.shape.mode is not None:
        return _NO_NETWORK[part.shape.mode]
    if mounting:
        return f"Waiting for an agent that has the image {image!r}: none has it."
    host = candidates[0].lacks(hosts, markers) or ""
    if host not in markers:
        return f"Waiting for the vfolder host {host!r}: this server does not have it mounted."
    wrong = [c for c in candidates if c.vfolder_hosts.get(host, markers[host]) != markers[host]]
    if not wrong:
        return f"Waiting for an agent that has the vfolder host {host!r} mounted."
    return (
        f"Waiting for an agent that has the vfolder host {host!r}: something else is mounted in "
        f"its place (its marker file differs) on {', '.join(c.agent_id for c in wrong)}."
    )


def _too_large(candidates: Sequence[Candidate], request: Slots) -> tuple[str, str]:
    """Return the slot that is too much for the closest agent, and the most that any has."""
    closest = min(candidates, key=lambda c: (len(request.shortfall(c.capacity)), c.agent_id))
    slot = next(iter(request.shortfall(closest.capacity)))
    return slot, amount_for_people(slot, max(c.capacity[slot] for c in candidates))


def _place(position: int) -> str:
    return f"number {position}" if position <= EXACT else f"behind {EXACT} others or more"
