"""``jupyter backendai agent``: the nodes that run kernels."""

from __future__ import annotations

import asyncio

import click

from backendai_jupyter.cli.api import connect
from backendai_jupyter.cli.output import json_option, plain, print_json, print_table, share_text
from backendai_jupyter.web.models import Agent, AgentList


@click.group()
def agent() -> None:
    """Agents: list, drain, undrain."""


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


@agent.command()
@click.argument("agent_id", metavar="ID")
@json_option
def drain(agent_id: str, as_json: bool) -> None:
    """Let nothing new start on an agent; what runs there goes on."""
    found = asyncio.run(_drain(agent_id, is_drained=True))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{agent_id} is drained: what runs there goes on, and nothing new starts.")


@agent.command()
@click.argument("agent_id", metavar="ID")
@json_option
def undrain(agent_id: str, as_json: bool) -> None:
    """Let kernels start on an agent again."""
    found = asyncio.run(_drain(agent_id, is_drained=False))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{agent_id} takes kernels again.")


async def _drain(agent_id: str, *, is_drained: bool) -> Agent:
    async with connect() as api:
        return await api.drain(agent_id, is_drained=is_drained)


async def _list() -> AgentList:
    async with connect() as api:
        return await api.agents()


def agent_rows(found: AgentList, slots: list[str]) -> list[tuple[str, ...]]:
    return [
        (
            one.id,
            f"{one.status}, drained" if one.is_drained else one.status,
            *(share_text(slot, one.used, one.capacity) for slot in slots),
            ", ".join(one.images),
        )
        for one in found.root
    ]
