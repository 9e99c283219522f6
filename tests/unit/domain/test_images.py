"""What the labels of images ask for."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.images import minimum_of, missing, strictest
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import InvalidInput

MIB = 1 << 20


def test_the_minimum_is_read_and_what_is_unknown_passed_over() -> None:
    labels = {
        "ai.backend.resource.min.cpu": "2",
        "ai.backend.resource.min.mem": "256m",
        "ai.backend.resource.min.gaudi2.device": "1",
        "ai.backend.resource.min.cuda.shares": "0.5",
        "ai.backend.role": "COMPUTE",
    }
    half = Slots.parse({"cuda.shares": "0.5"})
    assert minimum_of(labels) == Slots({"cpu": 2, "mem": 256 * MIB}) + half


@pytest.mark.parametrize("raw", ["much", "-1", "", "1x"])
def test_an_amount_that_is_none_names_the_label(raw: str) -> None:
    with pytest.raises(InvalidInput, match=r"^ai\.backend\.resource\.min\.mem: "):
        minimum_of({"ai.backend.resource.min.mem": raw})


def test_of_several_images_of_one_name_the_most_demanding_counts() -> None:
    images = [image({"cpu": "1", "mem": "1g"}), image({"cpu": "4"}), image({})]
    assert strictest(images) == Slots({"cpu": 4, "mem": 1024 * MIB})


@pytest.mark.parametrize(
    ("slots", "lacks"),
    [
        pytest.param({"cpu": 1, "cuda.device": 1}, {}, id="a whole device"),
        pytest.param({"cpu": 1, "cuda.shares": "0.5"}, {}, id="a part of one"),
        pytest.param({"cpu": 1}, {"cuda.device": 1, "cuda.shares": "0.5"}, id="none"),
        pytest.param(
            {"cpu": 1, "cuda.shares": "0.4"},
            {"cuda.device": 1, "cuda.shares": "0.5"},
            id="too little of one",
        ),
        pytest.param({"cuda.device": 1}, {"cpu": 1}, id="a device, but no processor"),
    ],
)
def test_an_image_that_names_both_ways_to_count_devices_is_content_with_one(
    slots: dict[str, object], lacks: dict[str, object]
) -> None:
    least = Slots.parse({"cpu": 1, "cuda.device": 1, "cuda.shares": "0.5"})
    assert missing(Slots.parse(slots), least) == Slots.parse(lacks)


def image(least: dict[str, str]) -> Image:
    labels = {f"ai.backend.resource.min.{slot}": amount for slot, amount in least.items()}
    return Image(name="python", reference="python", runtime="memory", labels=labels)
