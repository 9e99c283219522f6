"""Resource groups: sets of agents, and how the sessions that wait for each are served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from backendai_jupyter.errors import InvalidInput

DEFAULT_GROUP = "default"
GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SKIP_AFTER = 5
_FIELDS = ("order", "strategy", "head_of_line", "skip_after")

E = TypeVar("E", bound=StrEnum)


class Order(StrEnum):
    """Who comes first among sessions of one priority."""

    FIFO = "fifo"
    LIFO = "lifo"
    DRF = "drf"  # whose owner has the smallest dominant share of the group


class Strategy(StrEnum):
    """Which of the agents that fit equally well is taken."""

    CONCENTRATED = "concentrated"  # the fullest
    DISPERSED = "dispersed"  # the emptiest
    ROUND_ROBIN = "roundrobin"  # the one whose last turn is longest ago


class HeadOfLine(StrEnum):
    """What a session that lacks room means for those behind it."""

    STRICT = "strict"  # they wait, too
    SKIP = "skip"  # they may pass it once it was tried ``skip_after`` times


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    order: Order = Order.FIFO
    strategy: Strategy = Strategy.DISPERSED
    head_of_line: HeadOfLine = HeadOfLine.STRICT
    skip_after: int = _SKIP_AFTER

    def lets_others_pass(self, attempts: int) -> bool:
        """Whether those behind a session that was tried so often before are tried now."""
        return self.head_of_line is HeadOfLine.SKIP and attempts >= self.skip_after

    @classmethod
    def read(cls, raw: object, *, field: str) -> GroupPolicy:
        """Read e.g. ``{"order": "drf"}``; raises ``InvalidInput`` naming what is wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidInput(field, 'expected an object such as {"order": "fifo"}')
        for name in raw:
            if name not in _FIELDS:
                known = ", ".join(_FIELDS)
                raise InvalidInput(f"{field}.{name}", f"unknown; known are {known}")
        head_of_line = _one_of(HeadOfLine, raw, "head_of_line", field, HeadOfLine.STRICT)
        return cls(
            order=_one_of(Order, raw, "order", field, Order.FIFO),
            strategy=_one_of(Strategy, raw, "strategy", field, Strategy.DISPERSED),
            head_of_line=head_of_line,
            skip_after=_skip_after(raw, head_of_line, field),
        )


def read_groups(raw: Mapping[str, object], *, field: str) -> dict[str, GroupPolicy]:
    """Read policies by name of the group; raises ``InvalidInput`` naming what is wrong."""
    for name in raw:
        if not isinstance(name, str) or not GROUP_NAME.fullmatch(name):
            problem = "a name may have letters, digits, '.', '_' and '-', at most 64"
            raise InvalidInput(f"{field}.{name}", problem)
    return {name: GroupPolicy.read(raw[name], field=f"{field}.{name}") for name in sorted(raw)}


def _one_of(kind: type[E], raw: Mapping[str, object], name: str, field: str, default: E) -> E:
    value = raw.get(name, default)
    if not isinstance(value, str) or value not in list(kind):
        raise InvalidInput(f"{field}.{name}", f"{value!r} is none of {', '.join(kind)}")
    return kind(value)


def _skip_after(raw: Mapping[str, object], head_of_line: HeadOfLine, field: str) -> int:
    value = raw.get("skip_after", _SKIP_AFTER)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"{field}.skip_after", f"{value!r} is no number of attempts")
    if "skip_after" in raw and head_of_line is not HeadOfLine.SKIP:
        problem = "means nothing unless head_of_line is 'skip'"
        raise InvalidInput(f"{field}.skip_after", problem)
    return value
