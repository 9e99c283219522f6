"""Slots: exact, immutable, and clear about what is wrong with a request."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.domain.resources import Slots, Unit, parse_size, size_for_people, unit_of
from backendai_jupyter.errors import InvalidInput

GIB = 1024**3
amounts = st.dictionaries(
    st.sampled_from(["cpu", "mem", "cuda.shares"]), st.decimals(0, 10**15, places=3)
)


@pytest.mark.parametrize(
    ("raw", "n_bytes"),
    [("4g", 4 * GIB), ("512MiB", 512 * 1024**2), ("1.5 GB", 3 * GIB // 2), (1024, 1024), ("0", 0)],
)
def test_sizes(raw: object, n_bytes: int) -> None:
    assert parse_size(raw) == n_bytes


@pytest.mark.parametrize("raw", ["4x", "-1g", "", "g", None, True, "1e9", [1]])
def test_what_is_no_size(raw: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        pytest.param({"gpu": 1}, "resources.gpu", id="unknown slot"),
        pytest.param({"cpu": -1}, "resources.cpu", id="negative"),
        pytest.param({"cpu": "many"}, "resources.cpu", id="no number"),
        pytest.param({"cpu": True}, "resources.cpu", id="boolean"),
        pytest.param({"cpu": "inf"}, "resources.cpu", id="infinite"),
        pytest.param({"cpu": "0.0001"}, "resources.cpu", id="too fine"),
        pytest.param({"mem": "4x"}, "resources.mem", id="no size"),
        pytest.param({"cuda.device": 0.5}, "resources.cuda.device", id="half a device"),
        pytest.param({"cuda.mig-1g.5gb": 2}, "resources.cuda.mig-1g.5gb", id="two of a unique one"),
        pytest.param({"npu.device": 0.5}, "resources.npu.device", id="half of another kind"),
        pytest.param({"npu.cores": 1}, "resources.npu.cores", id="no part of a kind"),
        pytest.param([1], "resources", id="no object"),
        pytest.param({1: 2}, "resources.1", id="slot is a number"),
    ],
)
def test_malformed_resources_name_the_field(raw: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Slots.parse(raw)
    assert caught.value.field == field


def test_a_missing_slot_is_zero() -> None:
    assert Slots({"cpu": 1})["mem"] == 0
    assert Slots({"cpu": 1, "mem": 0}) == Slots({"cpu": 1})
    assert not Slots({"mem": 1}).fits_in(Slots({"cpu": 4}))


@given(amounts, amounts)
def test_adding_and_taking_away_are_exact(a: dict[str, Decimal], b: dict[str, Decimal]) -> None:
    assert Slots(a) + Slots(b) - Slots(b) == Slots(a)
    assert Slots(a).fits_in(Slots(a) + Slots(b))


@given(amounts)
def test_the_wire_form_is_lossless_and_plain(a: dict[str, Decimal]) -> None:
    wire = Slots(a).to_json()
    assert Slots.from_json(wire) == Slots(a)
    assert not any("E" in text for text in wire.values())


def test_a_layer_covers_the_one_below_slot_by_slot() -> None:
    below = Slots.parse({"cpu": 1, "mem": "1g"})
    assert Slots.parse({"mem": "4g"}).over(below) == Slots.parse({"cpu": 1, "mem": "4g"})


def test_people_read_units() -> None:
    assert Slots.parse({"cpu": 2, "mem": "1536m"}).for_people() == "cpu 2, mem 1.5 GiB"
    assert size_for_people(10) == "10 bytes"


@pytest.mark.parametrize(
    ("slot", "unit"),
    [
        ("cpu", Unit.COUNT),
        ("mem", Unit.BYTES),
        ("cuda.shares", Unit.FRACTION),
        ("npu.device", Unit.COUNT),
        ("npu.shares", Unit.FRACTION),
        ("cuda.mig-3g.20gb", Unit.UNIQUE),
        ("gpu", None),
        ("npu.devices", None),
        ("Npu.device", None),
    ],
)
def test_the_name_of_a_slot_says_its_unit(slot: str, unit: Unit | None) -> None:
    assert unit_of(slot) is unit


def test_slots_of_kinds_that_nobody_knew_are_counted_as_any() -> None:
    asked = Slots.parse({"npu.device": 2, "npu.shares": "0.25", "cuda.mig-1g.5gb": 1})
    assert asked.for_people() == "cuda.mig-1g.5gb 1, npu.device 2, npu.shares 0.25"


def test_an_unknown_slot_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidInput, match=r"known are cpu, mem, cuda\.device, .*KIND\.device"):
        Slots.parse({"gpu": 1})
