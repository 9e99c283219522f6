"""Choose devices for one kernel: pure functions, in whole thousandths of a slot.

Either strategy uses the fewest devices that hold what was asked for, so a share that fits on one
device is never torn.  ``fill`` keeps devices empty for those who want whole ones; ``evenly``
keeps kernels out of each other's way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from backendai_jupyter.domain.resources import QUANTUM
from backendai_jupyter.errors import NoCapacity

Room = Mapping[str, int]  # thousandths that are free, by device, in the order of the devices
Strategy = Callable[[int, Room], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Offer:
    """What is left of one device, for one slot."""

    device_id: str
    free: Decimal


def choose(
    slot: str, amount: Decimal, offers: Sequence[Offer], strategy: str
) -> dict[str, Decimal]:
    """Return how much of which device makes up ``amount``, all of it.

    The same arguments give the same answer.  Raises ``NoCapacity`` if there is less.
    """
    room = {offer.device_id: int(offer.free / QUANTUM) for offer in offers if offer.free > 0}
    wanted = int(amount / QUANTUM)
    if sum(room.values()) < wanted:
        free = QUANTUM * sum(room.values())
        raise NoCapacity(
            f"{slot} {amount.normalize():f} was asked for, and {free.normalize():f} of this "
            "node's devices is free."
        )
    chosen = STRATEGIES[strategy](wanted, room)
    return {device_id: chosen[device_id] * QUANTUM for device_id in room if device_id in chosen}


def fill(wanted: int, room: Room) -> dict[str, int]:
    """Take the fullest device that holds it; of a request that none holds, whole devices first."""
    left, taken = dict(room), dict[str, int]()
    while wanted:
        enough = [device for device, free in left.items() if free >= wanted]
        device = min(enough, key=left.__getitem__) if enough else max(left, key=left.__getitem__)
        taken[device] = min(wanted, left.pop(device))
        wanted -= taken[device]
    return taken


def evenly(wanted: int, room: Room) -> dict[str, int]:
    """Take the emptiest device; a request that it does not hold, in parts as equal as they fit."""
    used: list[str] = []
    for device in sorted(room, key=room.__getitem__, reverse=True):
        if sum(room[one] for one in used) >= wanted:
            break
        used.append(device)
    taken: dict[str, int] = {}
    for others, device in zip(range(len(used), 0, -1), reversed(used), strict=True):
        taken[device] = min(room[device], wanted // others)
        wanted -= taken[device]
    return taken


STRATEGIES: Mapping[str, Strategy] = {"fill": fill, "evenly": evenly}
