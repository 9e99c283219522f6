"""Who comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.domain.groups import Order
from backendai_jupyter.domain.records import WaitingSession
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.manager.scheduler.order import order
from tests.unit.manager.scheduler.samples import GIB, gib, session

CAPACITY = Slots({"cpu": 100, "mem": 100 * GIB})


def names(queue: list[WaitingSession]) -> list[str]:
    return [s.id for s in queue]


@pytest.mark.parametrize(
    ("by", "expected"),
    [(Order.FIFO, ["d", "a", "b", "c"]), (Order.LIFO, ["d", "c", "a", "b"])],
)
def test_priority_goes_before_age_and_age_before_id(by: Order, expected: list[str]) -> None:
    late_but_urgent = session("d", priority=20, created_at=3)
    others = [session("c", created_at=3), session("b", created_at=2), session("a", created_at=2)]
    assert names(order([*others, late_but_urgent], by)) == expected


def test_drf_takes_the_owner_with_the_smallest_dominant_share_first() -> None:
    asked = [session("big", owner="has much"), session("small", owner="has little", created_at=9)]
    usage = {"has much": Slots({"cpu": 1, "mem": 50 * GIB}), "has little": Slots({"cpu": 40})}
    assert names(order(asked, Order.DRF, capacity=CAPACITY, usage=usage)) == ["small", "big"]


def test_drf_counts_the_sum_of_what_an_owner_has_and_what_comes_before() -> None:
    many = [session(f"a{i}", gib(10), owner="a", created_at=i) for i in range(3)]
    few = [session("b0", gib(10), owner="b", created_at=7), session("b1", gib(10), owner="b")]
    usage = {"b": Slots({"mem": 5 * GIB})}
    queue = order([*many, *few], Order.DRF, capacity=CAPACITY, usage=usage)
    assert names(queue) == ["a0", "b1", "a1", "b0", "a2"]


def test_drf_ignores_a_slot_that_the_group_does_not_offer() -> None:
    asked = [session("x", owner="x", created_at=1), session("y", owner="y", created_at=2)]
    usage = {"x": Slots({"cuda.device": 8})}
    assert names(order(asked, Order.DRF, capacity=CAPACITY, usage=usage)) == ["x", "y"]


def test_a_higher_priority_beats_any_share() -> None:
    asked = [session("poor", owner="poor"), session("rich", owner="rich", priority=11)]
    usage = {"rich": Slots({"cpu": 99})}
    assert names(order(asked, Order.DRF, capacity=CAPACITY, usage=usage)) == ["rich", "poor"]


@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.integers(0, 3), st.integers(0, 3)), max_size=20),
    st.sampled_from(Order),
    st.randoms(use_true_random=False),
)
def test_the_queue_does_not_depend_on_the_order_of_the_rows(
    asked: list[tuple[str, int, int]], by: Order, random: st.DataObject
) -> None:
    """F39: a query without an order gives the same queue, which has everybody once."""
    sessions = [
        session(f"s{i}", owner=owner, priority=priority, created_at=at)
        for i, (owner, priority, at) in enumerate(asked)
    ]
    shuffled = list(sessions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    queue = order(sessions, by, capacity=CAPACITY)
    assert queue == order(shuffled, by, capacity=CAPACITY)
    assert sorted(names(queue)) == sorted(names(sessions))
    assert [s.priority for s in queue] == sorted((s.priority for s in queue), reverse=True)
