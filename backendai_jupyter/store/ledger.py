"""The slots ledger: what kernels hold of their agents, counted on both sides.

``allocations`` says what each kernel holds, ``agent_slots`` what is gone from each agent;
every function here changes both, inside the caller's transaction, which has locked the
kernel's session.

A limit of a user or a group would be one more counter, beside that of the agent: ``reserve`` takes
from it by the same kind of UPDATE, after the agent's slots so that all lock in one order, and
``free`` gives back.  Allocations say all that such a counter could be made from anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.records import Kernel
from backendai_jupyter.domain.resources import amount_for_people
from backendai_jupyter.errors import NoCapacity
from backendai_jupyter.store.portable import lock_in_order
from backendai_jupyter.store.tables import agent_slots, allocations, to_thousandths


def _of_kernel(column: sa.Column[int]) -> sa.ScalarSelect[int]:
    """Return what the kernel's row for the same slot has in ``column``."""
    return (
        sa.select(column)
        .where(
            allocations.c.kernel_id == sa.bindparam("kernel"),
            allocations.c.slot == agent_slots.c.slot,
        )
        .scalar_subquery()
    )


# Built once: that costs more than running them.
_THIS_KERNEL = allocations.c.kernel_id == sa.bindparam("kernel")
_NOT_FREED = sa.and_(_THIS_KERNEL, allocations.c.freed_at.is_(None))
_WHERE_IT_HOLDS = sa.and_(
    agent_slots.c.agent_id == sa.bindparam("agent"),
    agent_slots.c.slot.in_(sa.select(allocations.c.slot).where(_NOT_FREED)),
)
_SLOTS_THAT_IT_HOLDS = (
    sa.select(agent_slots.c.slot).where(_WHERE_IT_HOLDS).order_by(agent_slots.c.slot)
)

_TAKE = (
    sa.update(agent_slots)
    .where(
        agent_slots.c.agent_id == sa.bindparam("agent"),
        agent_slots.c.slot == sa.bindparam("which"),
        agent_slots.c.used + agent_slots.c.reserved + sa.bindparam("wanted", type_=sa.BigInteger)
        <= agent_slots.c.capacity,
    )
    .values(reserved=agent_slots.c.reserved + sa.bindparam("wanted", type_=sa.BigInteger))
)
_NOTE_TAKEN = (
    sa.update(allocations)
    .where(_THIS_KERNEL)
    .values(reserved=allocations.c.requested, used=0, freed_at=None)
)
_OCCUPY = (
    sa.update(agent_slots)
    .where(_WHERE_IT_HOLDS)
    .values(
        reserved=agent_slots.c.reserved - _of_kernel(allocations.c.reserved),
        used=agent_slots.c.used + _of_kernel(allocations.c.reserved),
    )
)
_NOTE_OCCUPIED = (
    sa.update(allocations)
    .where(_NOT_FREED)
    .values(reserved=0, used=allocations.c.used + allocations.c.reserved)
)
_FREE = (
    sa.update(agent_slots)
    .where(_WHERE_IT_HOLDS)
    .values(
        reserved=agent_slots.c.reserved - _of_kernel(allocations.c.reserved),
        used=agent_slots.c.used - _of_kernel(allocations.c.used),
    )
)
_NOTE_FREED = (
    sa.update(allocations)
    .where(_NOT_FREED)
    .values(reserved=0, used=0, freed_at=sa.bindparam("now", type_=sa.Double))
)


async def reserve(conn: AsyncConnection, kernel: Kernel, agent_id: str) -> None:
    """Reserve all slots of ``kernel`` on the agent, or raise ``NoCapacity``.

    What an agent has left is part of each UPDATE's condition, so schedulers need no lock
    and cannot overcommit.  The transaction must be given up after ``NoCapacity``.
    """
    for slot, amount in kernel.slots.items():  # sorted: two claims cannot wait for each other
        wanted = {"agent": agent_id, "which": slot, "wanted": to_thousandths(amount)}
        if (await conn.execute(_TAKE, wanted)).rowcount != 1:
            raise NoCapacity(
                f"Agent {agent_id} has no {slot} {amount_for_people(slot, amount)} left "
                f"for kernel {kernel.id}."
            )
    await conn.execute(_NOTE_TAKEN, {"kernel": kernel.id})


async def occupy(conn: AsyncConnection, kernel: Kernel) -> None:
    """Count what ``kernel`` has reserved as used; what is used already stays so."""
    held = {"kernel": kernel.id, "agent": kernel.agent_id}
    await lock_in_order(conn, _SLOTS_THAT_IT_HOLDS, held)
    await conn.execute(_OCCUPY, held)
    await conn.execute(_NOTE_OCCUPIED, {"kernel": kernel.id})


async def free(conn: AsyncConnection, kernel: Kernel, *, now: float) -> None:
    """Give back what ``kernel`` holds on its agent; doing so twice is harmless."""
    held = {"kernel": kernel.id, "agent": kernel.agent_id}
    await lock_in_order(conn, _SLOTS_THAT_IT_HOLDS, held)
    await conn.execute(_FREE, held)
    await conn.execute(_NOTE_FREED, {"kernel": kernel.id, "now": now})
