"""``jupyter backendai agent``: the nodes that run kernels."""

from __future__ import annotations

import asyncio

import click

from backendai_jupyter.cli.api import connect
from backendai_jupyter.cli.output import (
    SHORT_ID_LENGTH,
    json_option,
    plain,
    print_json,
    print_table,
    share_text,
)
from backendai_jupyter.cli.use import node_shares, node_use
from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.web.models import Agent, AgentList, Device, Holder


@click.group()
def agent() -> None:
    """Agents: list, show, drain, undrain."""


@agent.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List agents with what they have and how much of it is in use."""
    found = asyncio.run(_list())
    if as_json:
        print_json(found)
        return
    slots = sorted({slot for one in found.root for slot in one.capacity})
    columns = ("ID", "STATUS", *map(str.upper, slots), "CORES BUSY", "MEMORY USED", "IMAGES")
    print_table(columns, agent_rows(found, slots))
    for one in found.root:
        for note in one.notes:
            click.echo(f"\n{one.id}: {plain(note)}")


@agent.command()
@click.argument("agent_id", metavar="ID")
@json_option
def show(agent_id: str, as_json: bool) -> None:
    """Show one agent: what its node uses, its accelerators and which kernels have them."""
    found = asyncio.run(_show(agent_id))
    if as_json:
        print_json(found)
        return
    print_table(("", ""), agent_facts(found))
    if found.devices:
        click.echo()
        columns = ("DEVICE", "KIND", "NAME", "MEMORY", "SLOT", "IN USE", "SESSIONS")
        print_table(columns, [device_row(device) for device in found.devices])


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


async def _show(agent_id: str) -> Agent:
    async with connect() as api:
        return await api.agent(agent_id)


async def _list() -> AgentList:
    async with connect() as api:
        return await api.agents()


def agent_rows(found: AgentList, slots: list[str]) -> list[tuple[str, ...]]:
    return [
        (
            one.id,
            _status(one),
            *(share_text(slot, one.used, one.capacity) for slot in slots),
            *node_shares(one),
            ", ".join(one.images),
        )
        for one in found.root
    ]


def agent_facts(one: Agent) -> list[tuple[str, str]]:
    facts = [("id", one.id), ("status", _status(one)), ("version", one.version)]
    facts += [(slot, share_text(slot, one.used, one.capacity)) for slot in sorted(one.capacity)]
    facts += [*node_use(one), ("images", ", ".join(one.images))]
    return [*facts, *(("note", note) for note in one.notes)]


def device_row(device: Device) -> tuple[str, ...]:
    return (
        device.id,
        device.kind,
        device.name,
        size_for_people(device.memory_bytes) if device.memory_bytes else "",
        device.slot,
        f"{device.used} of {device.capacity}",
        ", ".join(map(_holder, device.holders)),
    )


def _holder(holder: Holder) -> str:
    whose = holder.session_id[:SHORT_ID_LENGTH] if holder.session_id else "another"
    return f"{whose} ({holder.amount})"


def _status(one: Agent) -> str:
    return f"{one.status}, drained" if one.is_drained else one.status
