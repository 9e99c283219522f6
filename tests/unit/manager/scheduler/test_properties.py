"""What holds of every pass, whatever waits and whatever is there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from backendai_jupyter.domain.groups import GroupPolicy, HeadOfLine, Order, Strategy
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
    Why,
)

MODES = [frozenset(ClusterMode), frozenset(ClusterMode), frozenset({ClusterMode.SINGLE_NODE})]
LONGEST = 3  # passes that a session of the simulation runs
EIGHT = Slots({"cpu": 8})
LOADS = [(1,), (2,), (2, 2), (3, 5), (8,), (8, 8)]  # cpu of the kernels of one session

amounts = st.fixed_dictionaries(
    {"cpu": st.integers(1, 5), "mem": st.integers(1, 5)},
    optional={"cuda.device": st.integers(1, 2)},
)
kernel_lists = st.lists(
    st.tuples(amounts, st.sampled_from(["python", "r"])), min_size=1, max_size=3
)


@st.composite
def sessions(draw: st.DrawFn, name: str) -> WaitingSession:
    kernels = tuple(
        WaitingKernel(f"{name}-{i}", image, Slots(wanted).to_amounts())
        for i, (wanted, image) in enumerate(draw(kernel_lists))
    )
    return WaitingSession(
        name,
        owner=draw(st.sampled_from("uvw")),
        group=draw(st.sampled_from(["g", "g", "h"])),
        priority=draw(st.sampled_from([0, 10, 10, 100])),
        created_at=draw(st.integers(0, 3)),
        kernels=kernels,
        not_before=draw(st.sampled_from([0, 0, 0, 9])),
        mode=draw(st.sampled_from(ClusterMode)),
    )


@st.composite
def candidates(draw: st.DrawFn, name: str) -> Candidate:
    capacity = {"cpu": draw(st.integers(1, 8)), "mem": draw(st.integers(1, 8))}
    if devices := draw(st.integers(0, 2)):
        capacity["cuda.device"] = devices
    used = {slot: draw(st.integers(0, amount)) for slot, amount in capacity.items()}
    return Candidate(
        name,
        capacity=Slots(capacity),
        free=Slots(capacity) - Slots(used),
        images=frozenset(draw(st.sampled_from([("python",), ("python", "r")]))),
        pullable=frozenset(draw(st.sampled_from([(), ("r",)]))),
        is_drained=draw(st.sampled_from([False, False, False, True])),
        group=draw(st.sampled_from(["g", "g", "h"])),
        modes=draw(st.sampled_from(MODES)),
        swarm=draw(st.sampled_from(["", "w", "w", "x"])),
    )


policies = st.builds(
    GroupPolicy,
    order=st.sampled_from(Order),
    strategy=st.sampled_from(Strategy),
    head_of_line=st.sampled_from(HeadOfLine),
    skip_after=st.integers(0, 1),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    waiting = tuple(draw(sessions(f"s{i:02}")) for i in range(draw(st.integers(1, 8))))
    agents = tuple(draw(candidates(f"a{i}")) for i in range(draw(st.integers(0, 4))))
    names = [agent.agent_id for agent in agents]
    return Snapshot(
        now=5.0,
        candidates=agents,
        waiting=waiting,
        policies={"g": draw(policies), "h": draw(policies)},
        attempts={s.id: draw(st.integers(0, 2)) for s in waiting},
        failed_on={
            s.id: frozenset(draw(st.lists(st.sampled_from(names), max_size=2)))
            for s in waiting
            if names
        },
        usage={"g": {"u": Slots({"cpu": draw(st.integers(0, 9))})}},
        last_agents={"g": draw(st.sampled_from([*names, ""]))},
    )


def left(agents: Iterable[Candidate], decisions: Iterable[Decision]) -> Mapping[str, Slots]:
    """Return what the agents have free after ``decisions``."""
    free = {agent.agent_id: agent.free for agent in agents}
    for decision in decisions:
        if isinstance(decision, Placed):
            for kernel in decision.session.kernels:
                agent_id = decision.agents[kernel.id]
                free[agent_id] = free[agent_id] - Slots.from_amounts(kernel.wanted)
    return free


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_nothing_is_overcommitted_and_everything_stands_where_it_may(snapshot: Snapshot) -> None:
    decisions = decide(snapshot)
    assert sorted(d.session.id for d in decisions) == sorted(s.id for s in snapshot.waiting)
    free = left(snapshot.candidates, decisions)
    assert all(amount >= 0 for slots in free.values() for amount in slots.values())
    agents = {agent.agent_id: agent for agent in snapshot.candidates}
    for decision in decisions:
        if isinstance(decision, Placed):
            assert set(decision.agents) == {kernel.id for kernel in decision.session.kernels}
            for kernel in decision.session.kernels:
                agent = agents[decision.agents[kernel.id]]
                assert agent.can_have(kernel.image)
                assert agent.group == decision.session.group
                assert not agent.is_drained
                assert decision.session.not_before <= snapshot.now
            if len(decision.session.kernels) > 1:
                used = [agents[agent_id] for agent_id in set(decision.agents.values())]
                assert all(decision.session.mode in agent.modes for agent in used)
                if decision.session.mode is ClusterMode.SINGLE_NODE:
                    assert len(used) == 1
                else:
                    (swarm,) = {agent.swarm for agent in used}
                    assert swarm


@settings(max_examples=60, deadline=None)
@given(snapshots(), st.integers())
def test_a_pass_depends_on_nothing_but_what_is_in_its_snapshot(
    snapshot: Snapshot, seed: int
) -> None:
    """F39: neither on the order of rows, nor on when or how often it is made."""
    shuffled = random.Random(seed)
    other = replace(
        snapshot,
        waiting=tuple(shuffled.sample(snapshot.waiting, len(snapshot.waiting))),
        candidates=tuple(shuffled.sample(snapshot.candidates, len(snapshot.candidates))),
    )
    assert decide(other) == decide(snapshot) == decide(snapshot)


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_who_waits_for_room_or_a_turn_is_told_what_is_true(snapshot: Snapshot) -> None:
    decisions = decide(snapshot)
    free = left(snapshot.candidates, decisions)
    for group in ("g", "h"):
        waiting = [d for d in decisions if isinstance(d, Waiting) and d.session.group == group]
        due = [d for d in waiting if d.why is not Why.TIME]
        assert [d.position for d in due] == list(range(1, len(due) + 1))
        assert all(d.reason for d in waiting)
        is_strict = snapshot.policy(group).head_of_line is HeadOfLine.STRICT
        assert sum(d.why is Why.ROOM for d in waiting) <= 1 or not is_strict
        for decision in waiting:
            if decision.why is Why.ROOM and len(decision.session.kernels) == 1:
                (kernel,) = decision.session.kernels
                wanted = Slots.from_amounts(kernel.wanted)
                able = [
                    free[a.agent_id]
                    for a in snapshot.candidates
                    if a.group == group and a.can_have(kernel.image) and not a.is_drained
                ]
                assert not any(wanted.fits_in(slots) for slots in able)
                assert decision.shortfall in [wanted.shortfall(slots) for slots in able]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(Strategy))
def test_each_kernel_gets_the_agent_that_a_look_at_all_of_them_would_choose(
    data: st.DataObject, strategy: Strategy
) -> None:
    """However many agents there are, and however often what is free of them changes."""
    agents = [
        Candidate(
            f"a{i:02}",
            capacity=Slots({"cpu": 8, "mem": 8, **({"cuda.device": 2} if i % 5 == 0 else {})}),
            free=Slots(
                {"cpu": data.draw(st.integers(2, 8)), "mem": 8, "cuda.device": 2 * (i % 5 == 0)}
            ),
            images=frozenset({"python", "r"} if i % 3 else {"python"}),
            pullable=frozenset({"r"}),
        )
        for i in range(data.draw(st.sampled_from([5, 40])))
    ]
    queue = [
        WaitingSession(f"s{i:02}", "u", "default", 10, i, (kernel,))
        for i, (wanted, image) in enumerate(
            data.draw(st.lists(st.tuples(amounts, st.sampled_from(["python", "r"])), max_size=30))
        )
        for kernel in (WaitingKernel(f"s{i:02}", image, Slots(wanted).to_amounts()),)
    ]
    policy = GroupPolicy(strategy=strategy, head_of_line=HeadOfLine.SKIP, skip_after=0)
    snapshot = Snapshot(0, tuple(agents), tuple(queue), policies={"default": policy})
    chosen = {
        d.session.id: d.agents[d.session.id] if isinstance(d, Placed) else None
        for d in decide(snapshot)
    }
    assert chosen == looked_at_all(agents, queue, strategy)


def looked_at_all(
    agents: Iterable[Candidate], queue: Iterable[WaitingSession], strategy: Strategy
) -> dict[str, str | None]:
    """Return what a scheduler chooses that has all the time in the world."""
    free = {agent.agent_id: agent.free for agent in agents}
    turns = {agent.agent_id: turn for turn, agent in enumerate(agents)}
    chosen: dict[str, str | None] = {}

    def rank(wanted: Slots, image: str, agent: Candidate) -> tuple[object, ...]:
        least = min(float(free[agent.agent_id][s] / agent.capacity[s]) for s in wanted)
        by_strategy = {
            Strategy.DISPERSED: -least,
            Strategy.CONCENTRATED: least,
            Strategy.ROUND_ROBIN: turns[agent.agent_id],
        }
        unneeded = "cuda.device" in agent.capacity and "cuda.device" not in wanted
        return unneeded, image not in agent.images, by_strategy[strategy], agent.agent_id

    for session in queue:
        (kernel,) = session.kernels
        wanted = Slots.from_amounts(kernel.wanted)
        fitting = [agent for agent in agents if wanted.fits_in(free[agent.agent_id])]
        best = min(fitting, key=partial(rank, wanted, kernel.image), default=None)
        chosen[session.id] = best.agent_id if best else None
        if best is not None:
            free[best.agent_id] = free[best.agent_id] - wanted
            turns[best.agent_id] = max(turns.values()) + 1
    return chosen


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(LOADS), st.integers(1, LONGEST)), min_size=1, max_size=4
        ),
        min_size=8,
        max_size=16,
    ),
    st.sampled_from(Strategy),
)
def test_nobody_starves_under_the_strict_policy(
    arrivals: list[list[tuple[tuple[int, ...], int]]], strategy: Strategy
) -> None:
    """F37: whatever keeps coming, everybody starts, after at most those before him.

    In each pass sessions come, are placed or not, and those that have run long enough end.
    """
    policy = GroupPolicy(strategy=strategy)
    assert longest_wait(arrivals, policy) <= LONGEST


def test_the_skip_policy_can_starve_a_large_session() -> None:
    """The simulation sees it where it happens."""
    small = [((2,), 2), ((2,), 2)]
    policy = GroupPolicy(head_of_line=HeadOfLine.SKIP, skip_after=0)
    arrivals = [[*small, *small], [*small, ((8,), 1)], *[[*small, *small]] * 10]
    assert longest_wait(arrivals, policy) > LONGEST
    assert longest_wait(arrivals, GroupPolicy()) <= LONGEST


def longest_wait(
    arrivals: Iterable[Iterable[tuple[tuple[int, ...], int]]], policy: GroupPolicy
) -> float:
    """Return for how many passes somebody waited, for each that was before him and himself.

    A session is the cpu of its kernels, and for how many passes it runs.
    """
    both = frozenset(ClusterMode)
    agents = [
        Candidate(f"a{i}", EIGHT, EIGHT, frozenset({"i"}), modes=both, swarm="w") for i in range(2)
    ]
    came: dict[str, tuple[int, int]] = {}  # when, and as which of those that waited
    runs: dict[str, int] = {}
    running: dict[str, tuple[int, Decision]] = {}
    waiting: list[WaitingSession] = []
    longest, now, coming = 0.0, 0, list(arrivals)
    while coming or waiting:
        for cpus, passes in coming.pop(0) if coming else ():
            name = f"s{len(came):03}"
            kernels = tuple(
                WaitingKernel(f"{name}-{i}", "i", (("cpu", cpu * 1000),))
                for i, cpu in enumerate(cpus)
            )
            waiting.append(
                WaitingSession(
                    name, "u", "default", 10, len(came), kernels, mode=ClusterMode.MULTI_NODE
                )
            )
            came[name], runs[name] = (now, len(waiting)), passes
        running = {name: (end, d) for name, (end, d) in running.items() if end > now}
        free = left(agents, [decision for _, decision in running.values()])
        there = tuple(replace(agent, free=free[agent.agent_id]) for agent in agents)
        snapshot = Snapshot(now, there, tuple(waiting), policies={"default": policy})
        for decision in decide(snapshot):
            name = decision.session.id
            if isinstance(decision, Placed):
                running[name] = now + runs[name], decision
                longest = max(longest, (now - came[name][0]) / came[name][1])
        waiting = [session for session in waiting if session.id not in running]
        now += 1
    return longest
