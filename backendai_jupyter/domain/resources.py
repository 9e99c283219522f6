"""Amounts of what an agent has to give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from backendai_jupyter.errors import InvalidInput

QUANTUM = Decimal("0.001")  # the smallest amount of any slot


# Slots and thousandths of them, by name of the slot: fast to compare, and as exact.
Amounts = tuple[tuple[str, int], ...]


class Unit(StrEnum):
    COUNT = "count"
    BYTES = "bytes"
    FRACTION = "fraction"
    UNIQUE = "unique"  # one for a kernel, or none


# The slots that everybody knows; an agent offers those of them that it has.  Accelerators of
# other kinds have slots of their own, of which the name says the unit.
SLOT_UNITS: Mapping[str, Unit] = {
    "cpu": Unit.COUNT,
    "mem": Unit.BYTES,
    "cuda.device": Unit.COUNT,
    "cuda.shares": Unit.FRACTION,
    "rocm.device": Unit.COUNT,
    "tpu.device": Unit.COUNT,
}

_OF_A_KIND = re.compile(r"[a-z][a-z0-9-]{0,15}\.(?P<part>device|shares|mig-[a-z0-9.]{1,32})")
_UNIT_OF_PART = {"device": Unit.COUNT, "shares": Unit.FRACTION}
_WHOLE = frozenset({Unit.COUNT, Unit.UNIQUE})
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<prefix>[kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class Slots(Mapping[str, Decimal]):
    """An immutable bundle of resources; a slot that is absent counts as zero.

    ``cpu`` is a count, ``mem`` is bytes, ``cuda.device`` a count, ``cuda.shares`` a
    fraction of a device.  Amounts are exact decimals in steps of 0.001.
    """

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, Decimal | int] | None = None) -> None:
        self._amounts = {
            slot: Decimal(amount).quantize(QUANTUM)
            for slot, amount in sorted((amounts or {}).items())
            if amount
        }

    @classmethod
    def parse(cls, raw: object, *, field: str = "resources") -> Slots:
        """Read what a person wrote, e.g. ``{"cpu": 2, "mem": "4g"}``.

        Raises ``InvalidInput`` naming ``field.slot`` for an unknown slot, a negative or
        malformed amount, or a mapping that is not one.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInput(field, 'expected an object such as {"cpu": 2, "mem": "4g"}')
        return cls(
            {
                _known(slot, field): parse_slot(slot, raw[slot], field=f"{field}.{slot}")
                for slot in raw
            }
        )

    def __getitem__(self, slot: str) -> Decimal:
        return self._amounts.get(slot, Decimal(0))

    def __contains__(self, slot: object) -> bool:
        return slot in self._amounts

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(tuple(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Slots({self.for_people()})"

    def __add__(self, other: Slots) -> Slots:
        return Slots({slot: self[slot] + other[slot] for slot in {*self, *other}})

    def __sub__(self, other: Slots) -> Slots:
        return Slots({slot: self[slot] - other[slot] for slot in {*self, *other}})

    @classmethod
    def total(cls, bundles: Iterable[Slots]) -> Slots:
        amounts: dict[str, Decimal] = {}
        for bundle in bundles:
            for slot, amount in bundle.items():
                amounts[slot] = amounts.get(slot, Decimal(0)) + amount
        return cls(amounts)

    def over(self, other: Slots) -> Slots:
        """Return this bundle with the amounts of ``other`` taken where ``self`` has none."""
        return Slots({**other._amounts, **self._amounts})

    def shortfall(self, available: Slots) -> Slots:
        """Return, for each slot that ``available`` does not cover, how much is missing."""
        return Slots({s: self[s] - available[s] for s in self if self[s] > available[s]})

    def fits_in(self, available: Slots) -> bool:
        """Whether ``available`` covers this bundle in every slot."""
        return not self.shortfall(available)

    def to_json(self) -> dict[str, str]:
        """Return the bundle as strings of plain decimals, the form on every wire."""
        return {slot: f"{amount.normalize():f}" for slot, amount in self._amounts.items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, str]) -> Slots:
        """Read what ``to_json`` wrote; slots unknown to this version are kept."""
        return cls({slot: Decimal(amount) for slot, amount in raw.items()})

    def to_amounts(self) -> Amounts:
        return tuple((slot, int(amount.scaleb(3))) for slot, amount in self._amounts.items())

    @classmethod
    def from_amounts(cls, amounts: Iterable[tuple[str, int]]) -> Slots:
        return cls({slot: Decimal(amount).scaleb(-3) for slot, amount in amounts})

    def for_people(self) -> str:
        """Return e.g. ``cpu 2, mem 4 GiB``."""
        return (
            ", ".join(f"{s} {amount_for_people(s, a)}" for s, a in self._amounts.items())
            or "nothing"
        )


def unit_of(slot: str) -> Unit | None:
    """Return what a slot is counted in; None for what is no name of a slot.

    ``KIND.device`` counts whole devices of a kind, ``KIND.shares`` parts of them, and
    ``KIND.mig-PROFILE`` is a part that a device was cut into, of which a kernel gets one.
    """
    if slot in SLOT_UNITS:
        return SLOT_UNITS[slot]
    named = _OF_A_KIND.fullmatch(slot)
    return None if named is None else _UNIT_OF_PART.get(named["part"], Unit.UNIQUE)


def amount_for_people(slot: str, amount: Decimal) -> str:
    """Return the amount of one slot as a person writes it: ``2``, ``4 GiB``, ``0.5``."""
    if unit_of(slot) is Unit.BYTES:
        return size_for_people(int(amount))
    return f"{amount.normalize():f}"


def size_for_people(n_bytes: int) -> str:
    """Return e.g. ``512 MiB`` or ``1.5 GiB``."""
    for power, prefix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if n_bytes >= 1024**power:
            number = Decimal(n_bytes) / 1024**power
            return f"{number.quantize(Decimal('0.1')).normalize():f} {prefix}"
    return f"{n_bytes} bytes"


def parse_size(raw: object) -> int:
    """Return the bytes in ``4g``, ``512MiB``, ``1.5 GB`` (powers of 1024) or a plain integer.

    Raises ``ValueError`` for anything else.
    """
    match = _SIZE.fullmatch(str(raw).strip()) if not isinstance(raw, bool) else None
    if match is None:
        raise ValueError(f"{raw!r} is not a size")
    number = Decimal(match["number"]) * 1024 ** _POWERS[match["prefix"].lower()]
    return int(number.to_integral_value())


def parse_slot(slot: str, raw: object, *, field: str) -> Decimal:
    """Return the amount of one slot that a person wrote; raises ``InvalidInput``."""
    unit = unit_of(slot)
    if unit is Unit.BYTES:
        try:
            return Decimal(parse_size(raw))
        except ValueError:
            problem = f"{raw!r} is not a size; write e.g. '512m' or '4g'"
            raise InvalidInput(field, problem) from None
    if isinstance(raw, bool) or not isinstance(raw, int | float | str | Decimal):
        raise InvalidInput(field, f"{raw!r} is not a number")
    try:
        amount = Decimal(str(raw))
    except InvalidOperation:
        raise InvalidInput(field, f"{raw!r} is not a number") from None
    if not amount.is_finite() or amount < 0:
        raise InvalidInput(field, f"{raw!r} must be a finite number that is not negative")
    if amount != amount.quantize(QUANTUM):
        raise InvalidInput(field, f"{raw!r} is finer than the smallest step, {QUANTUM}")
    if unit in _WHOLE and slot != "cpu" and amount != amount.to_integral_value():
        raise InvalidInput(field, f"{raw!r} must be a whole number")
    if unit is Unit.UNIQUE and amount > 1:
        raise InvalidInput(field, f"{raw!r} is more than the one that a kernel can have")
    return amount


def _known(slot: object, field: str) -> str:
    if not isinstance(slot, str) or unit_of(slot) is None:
        known = ", ".join(SLOT_UNITS)
        problem = f"there is no such resource slot; known are {known}, and those of other kinds"
        raise InvalidInput(f"{field}.{slot}", f"{problem}: KIND.device, KIND.shares, KIND.mig-...")
    return slot
