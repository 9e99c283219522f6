"""``jupyter backendai session queue``: who waits, where, for what, and until when perhaps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime

import click

from backendai_jupyter.cli.api import connect
from backendai_jupyter.cli.output import (
    json_option,
    print_json,
    print_table,
    short_ids,
    slots_text,
    span,
)
from backendai_jupyter.domain.states import Status
from backendai_jupyter.web.models import Session, SessionList
from backendai_jupyter.web.pending import Estimate
from backendai_jupyter.web.session_filters import SessionFilter

_COLUMNS = ("GROUP", "PLACE", "ID", "NAME", "RESOURCES", "AGE", "STARTS", "REASON")


@click.command()
@click.option("--group", default=None, help="Only of this resource group.")
@json_option
def queue(group: str | None, as_json: bool) -> None:
    """List the sessions that wait, in the order of their queues."""
    found = asyncio.run(_waiting(group))
    if as_json:
        print_json(found)
    elif not found.root:
        click.echo("No session waits.")
    else:
        print_table(_COLUMNS, queue_rows(found.root, now=time.time()))


async def _waiting(group: str | None) -> SessionList:
    wanted = SessionFilter(status=[Status.PENDING], resource_group=group, oldest_first=True)
    async with connect() as api:
        found = await api.sessions(wanted)
    return SessionList(sorted(found.root, key=_place))


def queue_rows(waiting: Sequence[Session], *, now: float) -> list[tuple[str, ...]]:
    ids = short_ids([one.id for one in waiting])
    return [
        (
            one.resource_group,
            str(one.pending.position or "") if one.pending else "",
            short,
            one.name,
            slots_text(one.kernels[0].slots),
            span(now - one.created_at),
            starts(one.pending.estimate if one.pending else None, now=now),
            one.pending.reason if one.pending else one.status_reason,
        )
        for short, one in zip(ids, waiting, strict=True)
    ]


def starts(estimate: Estimate | None, *, now: float) -> str:
    """Return in words when a session may start; empty if nobody knows."""
    if estimate is None:
        return ""
    earliest = moment(estimate.earliest, now=now)
    if estimate.latest is None:
        return f"not before {earliest}"
    latest = moment(estimate.latest, now=now)
    return f"about {earliest}" if earliest == latest else f"{earliest} to {latest}"


def moment(at: float, *, now: float) -> str:
    """Return a time of this machine's clock, with its day unless that is today."""
    then = datetime.fromtimestamp(at).astimezone()
    is_today = then.date() == datetime.fromtimestamp(now).astimezone().date()
    return then.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M")


def _place(one: Session) -> tuple[str, bool, int, float]:
    position = one.pending.position if one.pending else None
    return one.resource_group, position is None, position or 0, one.created_at
