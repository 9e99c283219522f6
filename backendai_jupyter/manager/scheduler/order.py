"""Order the sessions that wait for one resource group.  Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from backendai_jupyter.domain.groups import Order
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots


def order(
    waiting: Iterable[WaitingSession],
    by: Order,
    *,
    capacity: Slots | None = None,
    usage: Mapping[str, Slots] | None = None,
) -> list[WaitingSession]:
    """Return the queue: the higher priority first; inside one priority, as the group says.

    ``capacity`` is the group's, ``usage`` what each owner has of it; both are for DRF.
    """
    first_come = sorted(waiting, key=lambda s: (-s.priority, s.created_at, s.id))
    if by is Order.FIFO:
        return first_come
    if by is Order.LIFO:
        return sorted(first_come, key=lambda s: (-s.priority, -s.created_at, s.id))
    return list(_by_share(first_come, dict((capacity or Slots()).to_amounts()), usage or {}))


def _by_share(
    first_come: Sequence[WaitingSession],
    capacity: Mapping[str, int],
    usage: Mapping[str, Slots],
) -> Iterator[WaitingSession]:
    """Yield, in each priority, the first session of the owner with the smallest dominant share.

    What is yielded counts for its owner at once: else all that he asked for would come
    before the first session of whoever has a little more.
    """
    has: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for owner, slots in usage.items():
        has[owner].update(slots.to_amounts())
    bands: dict[int, dict[str, list[WaitingSession]]] = {}
    for session in reversed(first_come):  # so that each list is taken from its end
        bands.setdefault(session.priority, {}).setdefault(session.owner, []).append(session)
    for priority in sorted(bands, reverse=True):
        mine = bands[priority]
        heap = [_entry(mine[owner], _share(has[owner], capacity)) for owner in mine]
        heapq.heapify(heap)
        while heap:
            *_, owner = heapq.heappop(heap)
            session = mine[owner].pop()
            yield session
            for kernel in session.kernels:
                for slot, amount in kernel.wanted:
                    has[owner][slot] += amount
            if mine[owner]:
                heapq.heappush(heap, _entry(mine[owner], _share(has[owner], capacity)))


def _entry(queue: Sequence[WaitingSession], share: float) -> tuple[float, float, str, str]:
    first = queue[-1]
    return share, first.created_at, first.id, first.owner


def _share(has: Mapping[str, int], capacity: Mapping[str, int]) -> float:
    """Return the dominant share; a slot that the group does not offer has none."""
    shares = (amount / capacity[slot] for slot, amount in has.items() if capacity.get(slot, 0) > 0)
    return max(shares, default=0.0)
