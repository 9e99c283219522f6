"""What the scheduler decides about, and what it decides: frozen values without any I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import ClusterMode

_NOTHING = Slots()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent as the scheduler sees it."""

    agent_id: str
    capacity: Slots
    free: Slots
    images: frozenset[str]
    vfolder_hosts: Mapping[str, str] = field(default_factory=dict)  # marker's id by name
    is_drained: bool = False
    group: str = DEFAULT_GROUP
    pullable: frozenset[str] = frozenset()  # images that it fetches when they are needed
    modes: frozenset[ClusterMode] = frozenset()  # of sessions of several kernels that it can run
    swarm: str = ""  # that sessions on several agents may have a network of

    def lacks(self, hosts: Collection[str], markers: Mapping[str, str]) -> str | None:
        """Return one of ``hosts`` that this agent has not, or as another disk.

        ``markers`` are what the vfolder hosts are to the manager; one that it has not either
        is lacking everywhere.
        """
        for host in sorted(hosts):
            if host not in markers or self.vfolder_hosts.get(host) != markers[host]:
                return host
        return None

    def can_have(self, image: str) -> bool:
        """Whether it has the image, or can fetch it."""
        return image in self.images or image in self.pullable


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a pass depends on; two that are equal are decided equally.

    Neither ``candidates`` nor ``waiting`` need have an order.
    """

    now: float
    candidates: tuple[Candidate, ...]
    waiting: tuple[WaitingSession, ...]
    markers: Mapping[str, str] = field(default_factory=dict)  # of the manager's vfolder hosts
    policies: Mapping[str, GroupPolicy] = field(default_factory=dict)  # others have the default
    usage: Mapping[str, Mapping[str, Slots]] = field(default_factory=dict)  # by group, by owner
    attempts: Mapping[str, int] = field(default_factory=dict)  # earlier passes, by session
    failed_on: Mapping[str, frozenset[str]] = field(default_factory=dict)  # agents, by session
    last_agents: Mapping[str, str] = field(default_factory=dict)  # whose turn it was, by group

    def policy(self, group: str) -> GroupPolicy:
        return self.policies.get(group, GroupPolicy())


class Why(StrEnum):
    """What a session waits for."""

    ROOM = "room"  # it is its turn, and no agent has enough left
    TURN = "turn"  # something before it in its group waits for room
    AGENT = "agent"  # no agent that is there could run it, empty or not
    TIME = "time"  # it is not to start yet
    PARENT = "parent"  # one that it depends on has not ended yet
    DEFECT = "defect"  # the scheduler failed at it


@dataclass(frozen=True, slots=True)
class Placed:
    session: WaitingSession
    agents: Mapping[str, str]  # kernel id -> agent id


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a session may start, by the run times of others; seconds since the epoch, UTC."""

    earliest: float
    latest: float | None = None  # None: nobody can say


@dataclass(frozen=True, slots=True)
class Waiting:
    session: WaitingSession
    why: Why
    reason: str  # a sentence for the owner
    position: int | None = None  # in the queue of its group, from 1; none before its time
    shortfall: Slots = _NOTHING  # what the agent that is closest to enough lacks
    estimate: Estimate | None = None


Decision = Placed | Waiting
