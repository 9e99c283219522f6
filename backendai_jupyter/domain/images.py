"""What the labels of an image say, in Backend.AI's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from backendai_jupyter.domain.resources import SLOT_UNITS, Slots, parse_slot
from backendai_jupyter.domain.wire import Image

MINIMUM = "ai.backend.resource.min."  # then the name of a slot, e.g. ``mem``


def minimum_of(labels: Mapping[str, str]) -> Slots:
    """Return the least that a kernel of an image must be given.

    Raises ``InvalidInput`` naming the label for an amount that is none.  Slots that this version
    does not know are passed over: Backend.AI's images name more of them.
    """
    found: dict[str, Decimal | int] = {}
    for label, raw in labels.items():
        slot = label.removeprefix(MINIMUM)
        if slot != label and slot in SLOT_UNITS:
            found[slot] = parse_slot(slot, raw, field=label)
    return Slots(found)


def strictest(images: Iterable[Image]) -> Slots:
    """Return what satisfies each of several images of one name, which differ between agents."""
    least: dict[str, Decimal | int] = {}
    for image in images:
        for slot, amount in minimum_of(image.labels).items():
            least[slot] = max(least.get(slot, Decimal(0)), amount)
    return Slots(least)


def missing(slots: Slots, least: Slots) -> Slots:
    """Return that part of ``least`` which ``slots`` do not cover.

    The slots of one kind of device are alternatives, as on Backend.AI's images, which name both
    ``cuda.device`` and ``cuda.shares``: enough of one of them will do.
    """
    short = {slot: amount for slot, amount in least.items() if slots[slot] < amount}
    covered = {_kind(slot) for slot in least if slot not in short}
    return Slots({slot: amount for slot, amount in short.items() if _kind(slot) not in covered})


def _kind(slot: str) -> str:
    return slot.partition(".")[0]
