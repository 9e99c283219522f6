"""``jupyter backendai agent``: the nodes that run kernels."""

from __future__ import annotations

import asyncio

import click

from backendai_jupyter.cli.api import connect
from backendai_jupyter.cli.output import json_option, plain, print_json, print_table, share_text
from backendai_jupyter.web.models import AgentList


@click.group()
def agent() -> None:
    """Agents: list."""


@agent.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List agents with what they have and how much of it is in use."""
    found = asyncio.run(_list())
    if as_json:
        print_json(found)
        return
    slots = sorted({slot for one in found.root for slot in one.capacity})
    print_table(("ID", "STATUS", *map(str.upper, slots), "IMAGES"), agent_rows(found, slots))
    for one in found.root:
        for note in one.notes:
            click.echo(f"\n{one.id}: {plain(note)}")


async def _list() -> AgentList:
    async with connect() as api:
        return await api.agents()


def agent_rows(found: AgentList, slots: list[str]) -> list[tuple[str, ...]]:
    return [
        (
            one.id,
            one.status,
            *(share_text(slot, one.used, one.capacity) for slot in slots),
            ", ".join(one.images),
        )
        for one in found.root
    ]
