"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from backendai_jupyter.domain.resources import Slots, amount_for_people

F = TypeVar("F", bound=Callable[..., Any])

SHORT_ID_LENGTH = 8
_STYLES = {
    "RUNNING": "green",
    "alive": "green",
    "ok": "green",
    "ERROR": "red",
    "lost": "red",
    "fail": "red",
    "PENDING": "yellow",
    "warn": "yellow",
}
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

json_option: Callable[[F], F] = functools.partial(
    click.option, "--json", "as_json", is_flag=True, help="Print JSON, as the REST API has it."
)()


def print_json(answer: BaseModel) -> None:
    click.echo(answer.model_dump_json(indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print to the terminal's width; into a pipe, one line per row whatever its length."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        wide = console.options.update_width(100_000)
        console.width = Measurement.get(console, wide, table).maximum
    console.print(table)


def plain(text: str) -> str:
    """Return text without what would steer the terminal: names are chosen by users."""
    return "".join(c if c.isprintable() else " " for c in text)


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return beginnings of equal length that still tell the ids apart."""
    for length in range(SHORT_ID_LENGTH, max(map(len, ids), default=0)):
        if len({id[:length] for id in ids}) == len(set(ids)):
            return [id[:length] for id in ids]
    return list(ids)


def span(seconds: float) -> str:
    """Return e.g. ``3 hours``: the largest unit, rounded down."""
    for length, unit in _SPANS:
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "a moment"


def slots_text(slots: Mapping[str, str]) -> str:
    return Slots.from_json(slots).for_people()


def share_text(slot: str, used: Mapping[str, str], capacity: Mapping[str, str]) -> str:
    """Return e.g. ``1.5 of 16``."""
    amounts = (Decimal(side.get(slot, "0")) for side in (used, capacity))
    return " of ".join(amount_for_people(slot, amount) if amount else "0" for amount in amounts)
