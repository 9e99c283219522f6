"""When those that wait may start, as far as run times of others can tell."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendai_jupyter.domain.groups import DEFAULT_GROUP, GroupPolicy, HeadOfLine
from backendai_jupyter.domain.records import Occupant, Parent, Run, WaitingSession
from backendai_jupyter.manager.scheduler import estimate as module
from backendai_jupyter.manager.scheduler.admission import decide
from backendai_jupyter.manager.scheduler.estimate import estimate
from backendai_jupyter.manager.scheduler.runtimes import ENOUGH, UNKNOWN, RunTimes
from backendai_jupyter.manager.scheduler.snapshot import Candidate, Estimate, Snapshot
from tests.unit.manager.scheduler.samples import candidate, gib, session

NOW = 1000.0
SKIP = GroupPolicy(head_of_line=HeadOfLine.SKIP, skip_after=0)


def runs(*seconds: float, owner: str = "u", name: str = "") -> list[Run]:
    return [Run(owner, name, DEFAULT_GROUP, one) for one in seconds for _ in range(ENOUGH)]


def occupant(
    name: str, *, agent: str = "a", mem: int = 8, since: float = NOW, is_ending: bool = False
) -> Occupant:
    holds = ((agent, gib(mem).to_amounts()),)
    return Occupant(name, "u", "", DEFAULT_GROUP, since, is_ending, holds)


def full(name: str) -> Candidate:
    return candidate(name, 0)


def estimated(
    waiting: Sequence[WaitingSession],
    candidates: Sequence[Candidate],
    occupants: Sequence[Occupant],
    history: Sequence[Run],
    *,
    policy: GroupPolicy | None = None,
) -> Mapping[str, Estimate]:
    snapshot = Snapshot(
        NOW,
        tuple(candidates),
        tuple(waiting),
        policies={DEFAULT_GROUP: policy or GroupPolicy()},
    )
    return estimate(snapshot, decide(snapshot), occupants, RunTimes(history))


def test_one_starts_when_what_runs_has_taken_as_long_as_others_did() -> None:
    found = estimated([session("s", gib(8))], [full("a")], [occupant("r")], runs(100.0))
    assert found == {"s": Estimate(NOW + 100, NOW + 100)}


def test_the_range_is_between_the_quartiles_of_what_has_run_as_long() -> None:
    history = [Run("u", "", DEFAULT_GROUP, float(s)) for s in range(10, 91, 10)]
    running = [occupant("r", since=NOW - 45)]
    found = estimated([session("s", gib(8))], [full("a")], running, history)
    assert found == {"s": Estimate(NOW + 60 - 45, NOW + 80 - 45)}


def test_those_behind_wait_for_those_before_them() -> None:
    queue = [session(f"s{i}", gib(8), created_at=i) for i in range(3)]
    found = estimated(queue, [full("a")], [occupant("r", since=NOW - 40)], runs(100.0))
    assert [found[one.id].earliest - NOW for one in queue] == [60, 160, 260]


def test_a_small_one_behind_a_large_one_does_not_start_before_it_under_the_strict_policy() -> None:
    agents = [candidate("a", 4), full("b")]
    queue = [session("large", gib(8)), session("small", gib(1), created_at=1)]
    running = [occupant("r1", mem=4), occupant("r2", agent="b")]
    strict = estimated(queue, agents, running, runs(100.0))
    assert strict["small"].earliest == strict["large"].earliest == NOW + 100


def test_where_others_may_pass_only_the_earliest_moment_is_known() -> None:
    queue = [session(f"s{i}", gib(8), created_at=i) for i in range(2)]
    found = estimated(queue, [full("a")], [occupant("r")], runs(100.0), policy=SKIP)
    assert set(found.values()) == {Estimate(NOW + 100, None)}


def test_nobody_knows_when_what_has_outlived_all_others_ends() -> None:
    running = [occupant("old", since=NOW - 500), occupant("new", agent="b")]
    queue = [session("s", gib(8), gib(8))]
    found = estimated(queue, [full("a"), full("b")], running, runs(100.0))
    assert found == {"s": Estimate(NOW + 100, None)}
    assert estimated([session("s", gib(8))], [full("a")], running[:1], runs(100.0)) == {}


def test_what_is_ending_gives_its_room_back_now() -> None:
    running = [occupant("r", is_ending=True)]
    found = estimated([session("s", gib(8))], [full("a")], running, runs(100.0))
    assert found == {"s": Estimate(NOW, NOW)}


def test_what_was_just_placed_is_counted_once() -> None:
    queue = [session("first", gib(8)), session("second", gib(8), created_at=1)]
    placed = occupant("first", since=0.0)  # the rows say so already
    for running in (list[Occupant](), [placed]):
        found = estimated(queue, [candidate("a")], running, runs(100.0))
        assert found == {"second": Estimate(NOW + 100, NOW + 100)}


def test_what_is_not_in_line_yet_is_not_before_its_time_or_the_end_of_its_parents() -> None:
    first = session("first", gib(8))
    later = replace(session("later", not_before=NOW + 5), created_at=2)
    child = replace(session("child", created_at=3), parents=(Parent("first", "first"),))
    grandchild = replace(session("grandchild", created_at=4), parents=(Parent("child", "child"),))
    queue = [first, later, child, grandchild]
    found = estimated(queue, [full("a")], [occupant("r")], runs(100.0))
    assert found["later"] == Estimate(NOW + 5)
    assert found["child"] == Estimate(NOW + 200)
    assert found["grandchild"] == Estimate(NOW + 300)


def test_what_no_agent_could_run_has_no_estimate_and_holds_up_nobody() -> None:
    queue = [session("x", image="r"), session("s", gib(8), created_at=1)]
    found = estimated(queue, [full("a")], [occupant("r")], runs(100.0))
    assert set(found) == {"s"}


def test_only_the_first_of_a_queue_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = [session(f"s{i}", gib(8), created_at=i) for i in range(9)]
    monkeypatch.setattr(module, "FIRST", 4)
    assert set(estimated(queue, [full("a")], [occupant("r")], runs(9.0))) == {
        "s0",
        "s1",
        "s2",
        "s3",
    }
    monkeypatch.setattr(module, "MOST_LOOKS", 3)
    assert len(estimated(queue, [full("a")], [occupant("r")], runs(9.0))) < 4


def test_the_nearest_of_its_kind_say_how_long_it_runs() -> None:
    history = [
        *runs(10.0, name="nb"),
        *runs(70.0, name="other"),
        *runs(500.0, owner="v"),
    ]
    times = RunTimes(history)
    assert times.left(session("s")) == (10.0, 70.0)  # all of this owner
    assert times.left(replace(session("s"), name="nb")) == (10.0, 10.0)
    assert times.left(session("s", owner="w")) == (10.0, 500.0)  # all of the group
    assert times.left(session("s", group="gpu")) == UNKNOWN
    assert RunTimes(history[: ENOUGH - 1]).left(session("s")) == UNKNOWN


sizes = st.integers(1, 8)
histories = st.lists(st.floats(1, 1000), max_size=12).map(
    lambda found: [Run("u", "", DEFAULT_GROUP, one) for one in found]
)
queues = st.lists(sizes, min_size=1, max_size=8).map(
    lambda found: [session(f"s{i}", gib(size), created_at=i) for i, size in enumerate(found)]
)
occupants = st.lists(st.tuples(sizes, st.floats(0, 900)), max_size=4)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[WaitingSession], list[Candidate], list[Occupant]]:
    agents: list[Candidate] = []
    running: list[Occupant] = []
    for number in range(draw(st.integers(1, 3))):
        free = 8
        for size, age in draw(occupants):
            if size <= free:
                free -= size
                name = f"r{len(running)}"
                running.append(occupant(name, agent=f"a{number}", mem=size, since=NOW - age))
        agents.append(candidate(f"a{number}", free))
    return draw(queues), agents, running


@settings(max_examples=60, deadline=None)
@given(worlds(), histories, st.sampled_from([GroupPolicy(), SKIP]), st.integers())
def test_an_estimate_is_a_range_from_now_on_and_depends_on_nothing_else(
    world: tuple[list[WaitingSession], list[Candidate], list[Occupant]],
    history: list[Run],
    policy: GroupPolicy,
    seed: int,
) -> None:
    queue, agents, running = world
    found = estimated(queue, agents, running, history, policy=policy)
    for one in found.values():
        assert one.earliest >= NOW
        assert one.latest is None or one.latest >= one.earliest
    order = random.Random(seed)
    again = estimated(
        order.sample(queue, len(queue)),
        order.sample(agents, len(agents)),
        running,
        order.sample(history, len(history)),
        policy=policy,
    )
    assert found == again
    assert estimated(queue, agents, running, [], policy=policy) == {}


@settings(max_examples=60, deadline=None)
@given(worlds(), histories)
def test_under_the_strict_policy_nobody_is_said_to_start_before_those_before_him(
    world: tuple[list[WaitingSession], list[Candidate], list[Occupant]], history: list[Run]
) -> None:
    queue, agents, running = world
    found = estimated(queue, agents, running, history)
    line = [found[one.id] for one in queue if one.id in found]
    earliest = [one.earliest for one in line]
    assert earliest == sorted(earliest)
    latest = [one.latest for one in line if one.latest is not None]
    assert latest == sorted(latest)


@settings(max_examples=60, deadline=None)
@given(queues, st.lists(sizes, min_size=1, max_size=4), st.floats(1, 500), st.floats(0, 500))
def test_where_everything_takes_longer_nothing_is_said_to_start_earlier(
    queue: list[WaitingSession], held: list[int], seconds: float, more: float
) -> None:
    """On one agent; on several, what ends later can leave a better gap for a large one."""
    running: list[Occupant] = []
    free = 8
    for number, size in enumerate(held):
        if size <= free:
            free -= size
            running.append(occupant(f"r{number}", mem=size))
    agents = [candidate("a", free)]
    short = estimated(queue, agents, running, runs(seconds))
    long = estimated(queue, agents, running, runs(seconds + more))
    assert short.keys() == long.keys()
    for name, one in short.items():
        assert one.earliest <= long[name].earliest
        assert (one.latest or 0) <= (long[name].latest or 0)
