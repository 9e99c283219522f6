"""Which devices a kernel gets: nothing is torn, nothing is given twice, whatever is asked for."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.agent.accelerators.allocation import STRATEGIES, Offer, choose
from backendai_jupyter.errors import NoCapacity

AMOUNTS = st.decimals("0.001", 8, places=3)
FREE = st.lists(st.decimals(0, 2, places=3), max_size=6)


def offers(*free: object) -> list[Offer]:
    return [Offer(f"d{n}", Decimal(str(amount))) for n, amount in enumerate(free)]


def chosen(strategy: str, amount: str, *free: object) -> dict[str, str]:
    found = choose("cuda.shares", Decimal(amount), offers(*free), strategy)
    return {device: f"{part.normalize():f}" for device, part in found.items()}


@pytest.mark.parametrize(
    ("strategy", "amount", "free", "expected"),
    [
        pytest.param("fill", "0.5", (1, 0.5, 0.7), {"d1": "0.5"}, id="the fullest that holds it"),
        pytest.param("evenly", "0.5", (0.7, 1, 0.5), {"d1": "0.5"}, id="the emptiest"),
        pytest.param("fill", "1", (1, 1), {"d0": "1"}, id="of equal ones the first"),
        pytest.param("evenly", "1", (1, 1), {"d0": "1"}, id="evenly: of equal ones the first"),
        pytest.param(
            "fill",
            "2.5",
            (1, 0.6, 1, 1),
            {"d0": "1", "d2": "1", "d1": "0.5"},
            id="whole ones first",
        ),
        pytest.param("evenly", "1.5", (1, 1, 1), {"d0": "0.75", "d1": "0.75"}, id="in equal parts"),
        pytest.param(
            "evenly",
            "2",
            (1, 1, 0.3, 0.2),
            {"d0": "1", "d1": "1"},
            id="on as few devices as hold it",
        ),
        pytest.param(
            "evenly", "1.001", (1, 0.4), {"d0": "0.601", "d1": "0.4"}, id="as equal as they fit"
        ),
        pytest.param(
            "evenly", "1.001", (1, 1), {"d0": "0.501", "d1": "0.5"}, id="to the last step"
        ),
        pytest.param(
            "fill", "0.5", (0.3, 0.3), {"d0": "0.3", "d1": "0.2"}, id="pieces where nothing else is"
        ),
        pytest.param("fill", "1", (0, 1), {"d1": "1"}, id="nothing of a full one"),
    ],
)
def test_choice(
    strategy: str, amount: str, free: tuple[object, ...], expected: dict[str, str]
) -> None:
    assert chosen(strategy, amount, *free) == expected


def test_too_much_is_refused_with_what_there_is() -> None:
    with pytest.raises(NoCapacity, match=r"cuda\.shares 1\.5 was asked for, and 1\.2 of"):
        chosen("fill", "1.5", "0.7", "0.5")
    with pytest.raises(NoCapacity, match="and 0 of"):
        chosen("evenly", "0.001")


@given(st.sampled_from(sorted(STRATEGIES)), AMOUNTS, FREE)
def test_all_of_it_or_nothing_and_never_more_than_is_free(
    strategy: str, amount: Decimal, free: list[Decimal]
) -> None:
    available = offers(*free)
    try:
        found = choose("cuda.shares", amount, available, strategy)
    except NoCapacity:
        assert sum(free) < amount
        return
    assert sum(found.values()) == amount
    for offer in available:
        assert 0 <= found.get(offer.device_id, Decimal(0)) <= offer.free
    assert all(part >= Decimal("0.001") for part in found.values())
    assert found == choose("cuda.shares", amount, available, strategy)


@given(st.sampled_from(sorted(STRATEGIES)), AMOUNTS, FREE)
def test_as_few_devices_as_hold_it(strategy: str, amount: Decimal, free: list[Decimal]) -> None:
    if sum(free) < amount:
        return
    found = choose("cuda.shares", amount, offers(*free), strategy)
    largest = sorted(free, reverse=True)
    assert sum(largest[: len(found) - 1]) < amount


@given(st.integers(1, 6), st.integers(0, 6), st.sampled_from(sorted(STRATEGIES)))
def test_whole_devices_stay_whole(wanted: int, free: int, strategy: str) -> None:
    if wanted <= free:
        found = choose("cuda.device", Decimal(wanted), offers(*[1] * free), strategy)
        assert list(found.values()) == [Decimal(1)] * wanted
