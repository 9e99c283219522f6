"""The life of a kernel and of a compute session, written once and as data.

The names are Backend.AI's.  A kernel moves through them by guarded UPDATEs whose
WHERE clause is ``sources_of(target)``; a session's status is ``session_status`` of its
kernels and is never moved by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum


class Status(StrEnum):
    PENDING = "PENDING"  # accepted, holds no slots
    SCHEDULED = "SCHEDULED"  # an agent is chosen and its slots are reserved
    PREPARING = "PREPARING"  # the agent has taken the assignment
    PULLING = "PULLING"  # the agent is fetching the image
    CREATING = "CREATING"  # the container is being made, or its kernel has not answered yet
    RUNNING = "RUNNING"  # the kernel answered through the relay, or the runner of a batch is ready
    RESTARTING = "RESTARTING"  # the kernel program ended and its owner may start it again
    RESCHEDULING = "RESCHEDULING"  # taken back, to be placed anew with its session's other kernels
    TERMINATING = "TERMINATING"  # its end was asked for; the container may still exist
    TERMINATED = "TERMINATED"  # final: the container is gone
    CANCELLED = "CANCELLED"  # final: ended before it ever had a container
    ERROR = "ERROR"  # final: it could not start; the reason says at which step


_ENDS = frozenset({Status.TERMINATING, Status.ERROR})
_TAKEN_BACK = frozenset({Status.RESCHEDULING})
_STARTING = (Status.PREPARING, Status.PULLING, Status.CREATING, Status.RUNNING)

# A report may skip phases that were too short to be seen, so each phase of a start
# leads to every later one.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.SCHEDULED, Status.CANCELLED, Status.ERROR}),
    Status.SCHEDULED: frozenset({*_STARTING, Status.PENDING, *_ENDS, *_TAKEN_BACK}),
    Status.PREPARING: frozenset({*_STARTING[1:], *_ENDS, *_TAKEN_BACK}),
    Status.PULLING: frozenset({*_STARTING[2:], *_ENDS, *_TAKEN_BACK}),
    Status.CREATING: frozenset({Status.RUNNING, Status.RESTARTING, *_ENDS, *_TAKEN_BACK}),
    Status.RUNNING: frozenset({Status.RESTARTING, *_ENDS, *_TAKEN_BACK}),
    Status.RESTARTING: frozenset({Status.RUNNING, *_ENDS, *_TAKEN_BACK}),
    Status.RESCHEDULING: frozenset({Status.PENDING, Status.TERMINATING}),
    Status.TERMINATING: frozenset({Status.TERMINATED, Status.PENDING}),  # a batch, tried again
    Status.TERMINATED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.ERROR: frozenset(),
}

FINAL = frozenset(s for s, after in TRANSITIONS.items() if not after)
HOLDS_SLOTS = frozenset(
    {
        Status.SCHEDULED,
        Status.PREPARING,
        Status.PULLING,
        Status.CREATING,
        Status.RUNNING,
        Status.RESTARTING,
        Status.RESCHEDULING,
        Status.TERMINATING,
    }
)
# A user's quota is released when the end is asked for, a node's capacity only when the
# container is gone.
COUNTS_FOR_QUOTA = HOLDS_SLOTS - {Status.TERMINATING}
# An assignment exists in the cluster store exactly while its kernel is in one of these.
ASSIGNED = HOLDS_SLOTS - {Status.RESCHEDULING, Status.TERMINATING}


def sources_of(status: Status) -> frozenset[Status]:
    """Return every status a kernel may be in just before ``status``."""
    return frozenset(s for s, after in TRANSITIONS.items() if status in after)


# The first of these that any kernel of the session is in is the session's status.
_SESSION_ORDER = (
    Status.ERROR,
    Status.TERMINATING,
    Status.RESCHEDULING,
    Status.PENDING,
    Status.SCHEDULED,
    Status.PREPARING,
    Status.PULLING,
    Status.CREATING,
    Status.RESTARTING,
    Status.RUNNING,
    Status.CANCELLED,
    Status.TERMINATED,
)


def session_status(kernels: Collection[Status]) -> Status:
    """Return the status of a session whose kernels are in ``kernels`` (at least one).

    A session is ``RUNNING`` when all its kernels are; the least advanced kernel names the
    phase of a start; while one kernel still has to go the session is ``TERMINATING``.
    """
    if not kernels:
        raise ValueError("a session has at least one kernel")
    present = frozenset(kernels)
    if present & {Status.ERROR, Status.TERMINATED, Status.CANCELLED} and present - FINAL:
        return Status.TERMINATING
    return next(status for status in _SESSION_ORDER if status in present)
