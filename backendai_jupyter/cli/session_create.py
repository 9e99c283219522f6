"""``jupyter backendai session create``: ask for a session, or only what would become of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import click

from backendai_jupyter.cli.api import connect_to_server
from backendai_jupyter.cli.output import json_option, print_json, span
from backendai_jupyter.cli.session_queue import starts
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.web.dry_run import DryRun, NewSession
from backendai_jupyter.web.models import Session, SessionDetail
from backendai_jupyter.web.pending import Pending
from backendai_jupyter.web.session_filters import SessionFilter


@click.command()
@click.option("--kernel", default="backendai-python", show_default=True, help="The kernelspec.")
@click.option("--name", default="", help="What to call it.")
@click.option("--cpu", help="How many CPUs, e.g. 2 or 0.5.")
@click.option("--mem", help="How much memory, e.g. 4g.")
@click.option("--shm", help="How much of the memory may be shared, e.g. 256m.")
@click.option("-r", "--resource", "more", multiple=True, metavar="SLOT=AMOUNT", help="Any slot.")
@click.option("--preset", help="A named bundle of slots.")
@click.option("--cluster-size", type=int, help="How many kernels.")
@click.option("--group", help="The resource group.")
@click.option("--priority", type=int, help="0 to 100; higher is tried first.")
@click.option("--not-before", metavar="TIME", help="E.g. 2026-11-28T06:00:00+09:00.")
@click.option(
    "--depends-on",
    multiple=True,
    metavar="ID|NAME",
    help="Start only when this session has ended well; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@json_option
def create(kernel: str, name: str, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Ask for a session; it waits for its turn, and this command does not wait for it."""
    new = NewSession(kernelspec=kernel, name=name)
    answer = asyncio.run(_ask(new, options(**asked), dry_run=dry_run))
    if as_json:
        print_json(answer)
    elif isinstance(answer, DryRun):
        click.echo(outcome(answer, now=time.time()))
    else:
        click.echo(f"{answer.id} is {answer.status}.")


async def _ask(new: NewSession, asked: dict[str, Any], *, dry_run: bool) -> DryRun | SessionDetail:
    async with connect_to_server() as api:
        if parents := asked.get("depends_on"):
            known = (await api.sessions(SessionFilter())).root
            asked = {**asked, "depends_on": [meant(text, known) for text in parents]}
        whole = new.model_copy(update={"backendai": asked})
        return await (api.try_out(whole) if dry_run else api.create(whole))


def meant(text: str, known: Sequence[Session]) -> str:
    """Return the whole id of which tables show the beginning; else what was written."""
    ids = [one.id for one in known if one.id.startswith(text)]
    is_name = any(one.name == text for one in known)
    return ids[0] if len(ids) == 1 and not is_name else text


def options(
    *,
    cpu: str | None = None,
    mem: str | None = None,
    more: Sequence[str] = (),
    group: str | None = None,
    depends_on: Sequence[str] = (),
    **others: object,
) -> dict[str, object]:
    """Return the ``backendai`` object that was asked for; the server checks what is in it."""
    resources: dict[str, str] = {}
    for one in more:
        slot, is_there, amount = one.partition("=")
        if not is_there:
            raise InvalidInput("--resource", f"{one!r}: write e.g. cuda.device=1")
        resources[slot] = amount
    resources |= {slot: value for slot, value in (("cpu", cpu), ("mem", mem)) if value}
    asked: dict[str, object] = {
        "resources": resources,
        "resource_group": group,
        "depends_on": list(depends_on),
        **others,
    }
    return {name: value for name, value in asked.items() if value not in (None, {}, [])}


def outcome(tried: DryRun, *, now: float) -> str:
    """Return in words what would become of a session."""
    if tried.pending is None:
        where = ", ".join(f"{role} on {agent}" for role, agent in sorted(tried.agents.items()))
        return f"It would start now: {where}."
    return f"It would wait. {standing(tried.pending, now=now)}"


def standing(pending: Pending, *, now: float) -> str:
    """Return in words where a session that waits stands."""
    when = starts(pending.estimate, now=now)
    if pending.estimate is None or not when:
        return pending.reason
    waits = span(max(0.0, pending.estimate.earliest - now))
    return f"{pending.reason} It may start: {when} (in {waits} at the earliest)."
