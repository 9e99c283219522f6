"""The table of moves, and what a session's status says of its kernels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.domain.states import (
    ASSIGNED,
    COUNTS_FOR_QUOTA,
    FINAL,
    HOLDS_SLOTS,
    TRANSITIONS,
    Status,
    session_status,
    sources_of,
)


def test_every_status_has_its_moves() -> None:
    assert set(TRANSITIONS) == set(Status)


def test_final_statuses_hold_nothing() -> None:
    assert frozenset({Status.TERMINATED, Status.CANCELLED, Status.ERROR}) == FINAL
    assert not FINAL & (HOLDS_SLOTS | COUNTS_FOR_QUOTA | ASSIGNED)


def test_quota_is_released_before_the_slots_are() -> None:
    assert {Status.TERMINATING} == HOLDS_SLOTS - COUNTS_FOR_QUOTA


@pytest.mark.parametrize("status", [s for s in Status if s not in FINAL])
def test_every_living_kernel_can_come_to_an_end(status: Status) -> None:
    reached, frontier = set(), {status}
    while frontier:
        reached |= frontier
        frontier = {after for s in frontier for after in TRANSITIONS[s]} - reached
    assert reached & FINAL


def test_sources_are_the_moves_read_backwards() -> None:
    for status in Status:
        assert all(status in TRANSITIONS[source] for source in sources_of(status))


@pytest.mark.parametrize(
    ("kernels", "session"),
    [
        pytest.param([Status.RUNNING], Status.RUNNING, id="one runs"),
        pytest.param([Status.RUNNING, Status.CREATING], Status.CREATING, id="the slowest"),
        pytest.param([Status.RUNNING, Status.ERROR], Status.TERMINATING, id="one failed"),
        pytest.param([Status.TERMINATED, Status.ERROR], Status.ERROR, id="all over, one failed"),
        pytest.param([Status.TERMINATED] * 2, Status.TERMINATED, id="all over"),
        pytest.param([Status.RUNNING, Status.TERMINATED], Status.TERMINATING, id="one left"),
    ],
)
def test_session_status(kernels: list[Status], session: Status) -> None:
    assert session_status(kernels) is session


@given(st.lists(st.sampled_from(Status), min_size=1))
def test_a_session_is_over_exactly_when_all_its_kernels_are(kernels: list[Status]) -> None:
    """F8: a session says what its kernels are."""
    assert (session_status(kernels) in FINAL) == all(k in FINAL for k in kernels)
