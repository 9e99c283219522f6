"""What is placed on one agent as a whole: a kernel, or all of a session on a single agent.  Pure.

A session of several kernels is placed part by part, all or none.  On a single agent all its
kernels are one part, which wants what they want together; on several agents each is one, and
all go to agents of one swarm, which can have a network of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from backendai_jupyter.domain.records import WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Amounts, Slots
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.manager.scheduler.snapshot import Candidate


class Shape(NamedTuple):
    """What decides which agents could run a part, its amounts aside."""

    images: frozenset[str]
    hosts: frozenset[str]
    slots: tuple[str, ...]
    mode: ClusterMode | None = None  # None: of a session of one kernel
    swarm: str = ""  # of a session on several agents: the one that is tried

    def can_network(self, agent: Candidate) -> bool:
        """Whether kernels of the agent could reach the others of their session."""
        if self.mode is None:
            return True
        is_there = self.mode is ClusterMode.SINGLE_NODE or (
            self.swarm and agent.swarm == self.swarm
        )
        return bool(is_there) and self.mode in agent.modes


class Part(NamedTuple):
    wanted: Amounts
    kernels: Sequence[WaitingKernel]
    shape: Shape


def ways(session: WaitingSession, swarms: Sequence[str]) -> list[tuple[Part, ...]]:
    """Return what ``session`` may be placed as, at least one way; ``swarms`` are those there."""
    kernels = session.kernels
    if len(kernels) == 1:
        return [(_part(kernels),)]
    mode = session.mode
    if mode is ClusterMode.SINGLE_NODE:
        return [(_part(kernels, mode),)]
    return [tuple(_part((k,), mode, swarm) for k in kernels) for swarm in swarms or ("",)]


def _part(
    kernels: Sequence[WaitingKernel], mode: ClusterMode | None = None, swarm: str = ""
) -> Part:
    wanted, hosts = kernels[0].wanted, kernels[0].hosts
    if len(kernels) > 1:
        wanted = Slots.total(Slots.from_amounts(k.wanted) for k in kernels).to_amounts()
        hosts = hosts.union(*(k.hosts for k in kernels))
    images = frozenset(k.image for k in kernels)
    return Part(wanted, kernels, Shape(images, hosts, tuple(s for s, _ in wanted), mode, swarm))
