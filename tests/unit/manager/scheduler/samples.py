"""Agents and waiting sessions with everything filled in that a test does not care about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy
from backendai_jupyter.domain.records import WaitingKernel, WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.manager.scheduler.admission import decide
from backendai_jupyter.manager.scheduler.snapshot import (
    Candidate,
    Decision,
    Placed,
    Snapshot,
    Waiting,
)

GIB = 1024**3
NOTHING: Mapping[str, str] = MappingProxyType({})
BOTH = {"local": "1", "nfs": "2"}  # vfolder hosts and the ids in their markers


def gib(amount: int, **more: int) -> Slots:
    return Slots({"cpu": 1, "mem": amount * GIB, **{f"cuda.{k}": v for k, v in more.items()}})


def candidate(
    name: str,
    free_gib: int = 8,
    *,
    images: Sequence[str] = ("python",),
    pullable: Sequence[str] = (),
    markers: Mapping[str, str] = NOTHING,
    devices: int = 0,
    capacity_gib: int = 8,
    group: str = DEFAULT_GROUP,
    is_drained: bool = False,
    modes: Sequence[ClusterMode] = tuple(ClusterMode),
    swarm: str = "w",
) -> Candidate:
    """An agent of 8 cpu and 8 GiB; ``markers`` are the vfolder hosts that it has mounted."""
    more = {"cuda.device": devices} if devices else {}
    return Candidate(
        name,
        capacity=Slots({"cpu": 8, "mem": capacity_gib * GIB, **more}),
        free=Slots({"cpu": 8, "mem": free_gib * GIB, **more}),
        images=frozenset(images),
        pullable=frozenset(pullable),
        vfolder_hosts=markers,
        group=group,
        is_drained=is_drained,
        modes=frozenset(modes),
        swarm=swarm,
    )


def session(
    name: str = "s",
    *slots: Slots,
    image: str = "python",
    hosts: Sequence[str] = (),
    owner: str = "u",
    priority: int = 10,
    created_at: float = 0.0,
    group: str = DEFAULT_GROUP,
    not_before: float = 0.0,
    mode: ClusterMode = ClusterMode.MULTI_NODE,
) -> WaitingSession:
    """A session with a kernel for each of ``slots``; the first has the session's id."""
    names = [name, *(f"{name}-{i}" for i in range(1, len(slots)))]
    kernels = tuple(
        WaitingKernel(kernel_id, image, wanted.to_amounts(), frozenset(hosts))
        for kernel_id, wanted in zip(names, slots or (gib(1),), strict=True)
    )
    return WaitingSession(
        name, owner, group, priority, created_at, kernels, not_before=not_before, mode=mode
    )


def decided(
    waiting: Sequence[WaitingSession],
    candidates: Sequence[Candidate],
    *,
    policy: GroupPolicy | None = None,
    markers: Mapping[str, str] = NOTHING,
    **more: object,
) -> dict[str, Decision]:
    """Return what is decided of each session, by its id."""
    snapshot = Snapshot(
        now=100.0,
        candidates=tuple(candidates),
        waiting=tuple(waiting),
        markers=markers,
        policies={DEFAULT_GROUP: policy or GroupPolicy()},
        **more,  # type: ignore[arg-type]
    )
    return {decision.session.id: decision for decision in decide(snapshot)}


def agent_of(decision: Decision) -> str:
    """Return where the only kernel of a session was placed."""
    assert isinstance(decision, Placed), decision
    (agent,) = decision.agents.values()
    return agent


def waiting(decision: Decision) -> Waiting:
    assert isinstance(decision, Waiting), decision
    return decision
