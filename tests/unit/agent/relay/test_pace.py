"""Who floods gives way to who has little to say."""

from __future__ import annotations

import pytest

from backendai_jupyter.agent.relay.pace import Pace, Traffic

GATHER_S = 0.004


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


def flood(pace: Pace, *, until_s: float) -> None:
    """Pass 100 messages in turns of 1 ms, as fast as it is let."""
    at_s = until_s - 0.05
    while at_s < until_s:
        at_s += pace.rest_s(at_s) + 0.001
        pace.passed(100, 100, began_s=at_s - 0.001, now_s=at_s)


def test_a_few_messages_never_wait(traffic: Traffic) -> None:
    pace, at_s = Pace(traffic, gather_s=GATHER_S), 100.0
    for _ in range(1000):
        at_s += 0.003  # as long as a quick round trip, with its five messages
        pace.passed(5, 3000, began_s=at_s - 0.001, now_s=at_s)
        assert pace.rest_s(at_s) == 0


def test_a_flood_lets_messages_gather_unless_there_are_more_already(traffic: Traffic) -> None:
    pace = Pace(traffic, gather_s=GATHER_S)
    flood(pace, until_s=100)
    pace.passed(100, 100, began_s=100, now_s=100.001)
    assert pace.rest_s(100.001) == pytest.approx(GATHER_S)
    assert pace.rest_s(100.003) == pytest.approx(GATHER_S - 0.002)
    assert pace.rest_s(100.006) == 0
    pace.passed(100, 100, began_s=100.006, now_s=100.007, more=True)
    assert pace.rest_s(100.007) == 0


def test_large_messages_are_a_flood_too(traffic: Traffic) -> None:
    pace = Pace(traffic, gather_s=GATHER_S)
    pace.passed(1, 5 << 20, began_s=100, now_s=100.001)
    assert pace.rest_s(100.001) > 0


def test_beside_a_lively_stream_a_flood_has_little_time(traffic: Traffic) -> None:
    pace, other = Pace(traffic), Pace(traffic)
    flood(pace, until_s=100)
    pace.passed(100, 100, began_s=100, now_s=100.001)
    assert pace.rest_s(100.001) == 0
    other.passed(1, 100, began_s=100.001, now_s=100.002)
    assert other.rest_s(100.002) == 0
    pace.passed(100, 100, began_s=100.002, now_s=100.004, more=True)
    assert pace.rest_s(100.004) == pytest.approx(0.098)
    pace.passed(100, 100, began_s=100.5, now_s=100.502)
    assert pace.rest_s(100.502) == 0  # the other one has been silent for long


def test_a_flood_makes_room_as_soon_as_another_stream_is_asked(traffic: Traffic) -> None:
    pace, other = Pace(traffic), Pace(traffic)
    flood(pace, until_s=100)
    pace.passed(100, 100, began_s=100, now_s=100.001)
    assert pace.rest_s(100.001) == 0
    other.asked(100.001)
    assert pace.rest_s(100.001) == pytest.approx(0.049)
    assert pace.rest_s(100.201) == 0


def test_a_flood_that_is_asked_stays_one(traffic: Traffic) -> None:
    pace, other = Pace(traffic), Pace(traffic)
    flood(pace, until_s=100)
    pace.asked(100)
    other.passed(100, 1 << 20, began_s=100, now_s=100.001)
    assert other.rest_s(100.001) == 0


def test_a_flood_that_rests_stays_one(traffic: Traffic) -> None:
    pace, other = Pace(traffic), Pace(traffic)
    flood(pace, until_s=100)
    at_s, passed_bytes = 100.0, 0
    while at_s < 101:
        at_s += pace.rest_s(at_s) + 0.002
        other.passed(1, 100, began_s=at_s, now_s=at_s)
        pace.passed(16, 1 << 20, began_s=at_s - 0.002, now_s=at_s)
        passed_bytes += 1 << 20
    assert passed_bytes == pytest.approx(10 << 20, rel=0.1)  # a fiftieth of the time


def test_a_turn_that_was_held_up_costs_no_long_rest(traffic: Traffic) -> None:
    pace, other = Pace(traffic), Pace(traffic)
    flood(pace, until_s=100)
    other.passed(1, 100, began_s=104.9, now_s=105)
    pace.passed(100, 500_000_000, began_s=100, now_s=105)
    assert pace.rest_s(105) == pytest.approx(0.2)


def test_two_floods_do_not_wait_for_each_other(traffic: Traffic) -> None:
    one, other = Pace(traffic), Pace(traffic)
    flood(one, until_s=100)
    flood(other, until_s=100)
    flood(one, until_s=100.2)
    flood(other, until_s=100.2)
    for pace in (one, other):
        pace.passed(100, 100, began_s=100.3, now_s=100.302)
        assert pace.rest_s(100.302) == 0


def test_it_is_lively_who_is_followed_by_others(traffic: Traffic) -> None:
    first, second = Pace(traffic), Pace(traffic)
    traffic.note(first, 100.00)
    traffic.note(second, 100.01)
    traffic.note(second, 100.02)
    assert traffic.is_lively(100.05, beside=second)
    assert traffic.is_lively(100.05, beside=first)
    traffic.note(second, 100.15)
    assert not traffic.is_lively(100.2, beside=second)
    assert traffic.is_lively(100.2, beside=Pace(traffic))
