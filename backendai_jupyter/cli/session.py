"""``jupyter backendai session``: what runs, what became of it, what it said, and its end."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import click

from backendai_jupyter.cli import batch_words
from backendai_jupyter.cli.api import connect, find_session
from backendai_jupyter.cli.output import (
    json_option,
    print_json,
    print_table,
    short_ids,
    slots_text,
    span,
)
from backendai_jupyter.cli.use import kernel_use, session_use
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.web.log_models import Log
from backendai_jupyter.web.models import (
    MAX_SESSIONS,
    Kernel,
    Session,
    SessionDetail,
    SessionList,
)
from backendai_jupyter.web.relatives import Relative
from backendai_jupyter.web.session_filters import SessionFilter

_ALIVE = [status for status in Status if status not in FINAL]


class Verbs(click.Group):
    """Imports what is a file of its own when it is asked for: some of them are slow to load."""

    files: ClassVar = {
        "create": "session_create",
        "queue": "session_queue",
        "run": "run",
        "watch": "session_watch",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.files})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.files:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"backendai_jupyter.cli.{self.files[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=Verbs)
def session() -> None:
    """Compute sessions: create, run, queue, watch, list, show, logs, terminate."""


@session.command("ls")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(list(Status), case_sensitive=False),
    help="Only those in this status; may be given several times.",
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_SESSIONS), default=MAX_SESSIONS, help="At most so many."
)
@json_option
def ls(everything: bool, statuses: Sequence[Status], limit: int, as_json: bool) -> None:
    """List sessions, newest first."""
    chosen = list(statuses) or ([] if everything else _ALIVE)
    found = asyncio.run(_list(SessionFilter(status=chosen, limit=limit, statistics=True)))
    if as_json:
        print_json(found)
    elif not found.root:
        click.echo("No session." if everything or statuses else "No session runs or waits.")
    else:
        columns = ("ID", "NAME", "STATUS", "AGENT", "RESOURCES", "CPU", "MEMORY", "AGE", "REASON")
        print_table(columns, session_rows(found.root, now=time.time()))


@session.command()
@click.argument("session_id", metavar="ID")
@json_option
def show(session_id: str, as_json: bool) -> None:
    """Show one session with its history; the beginning of its id is enough."""
    found = asyncio.run(_show(session_id))
    if as_json:
        print_json(found)
        return
    print_table(("SESSION", found.id), session_facts(found))
    for kernel in found.kernels:
        click.echo()
        print_table(("KERNEL", kernel.hostname), kernel_facts(kernel))
    click.echo()
    print_table(("AT", "KERNEL", "STATUS", "BY", "REASON"), history_rows(found))


@session.command()
@click.argument("session_id", metavar="ID")
@click.option("--kernel", "host", default="main1", help="Of this one, e.g. sub1.")
@json_option
def logs(session_id: str, host: str, as_json: bool) -> None:
    """Print the end of what a session's main kernel, or another one, wrote."""
    text = asyncio.run(_log(session_id, host))
    if as_json:
        print_json(Log(log=text))
    elif not text:
        click.echo("It has written nothing that was kept.", err=True)
    else:
        click.echo(text, nl=not text.endswith("\n"))


@session.command()
@click.argument("session_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def terminate(session_ids: Sequence[str], as_json: bool) -> None:
    """Ask for the end of sessions; the beginnings of their ids are enough."""
    ended = asyncio.run(_terminate(session_ids))
    if as_json:
        print_json(ended)
        return
    for one in ended.root:
        click.echo(f"{one.id} is {one.status}.")


async def _list(wanted: SessionFilter) -> SessionList:
    async with connect() as api:
        return await api.sessions(wanted)


async def _show(beginning: str) -> SessionDetail:
    async with connect() as api:
        return await api.session(await find_session(api, beginning))


async def _log(beginning: str, host: str) -> str:
    async with connect() as api:
        return await api.log(await find_session(api, beginning), host)


async def _terminate(beginnings: Sequence[str]) -> SessionList:
    async with connect() as api:
        # All are looked up before the first is ended: a mistyped id ends nothing.
        ids = [await find_session(api, beginning) for beginning in beginnings]
        for session_id in ids:
            await api.terminate(session_id)
        return SessionList([await api.session(session_id) for session_id in ids])


def session_rows(sessions: Sequence[Session], *, now: float) -> list[tuple[str, ...]]:
    ids = short_ids([one.id for one in sessions])
    return [
        (
            short,
            one.name,
            one.status,
            ", ".join(sorted({k.agent_id for k in one.kernels if k.agent_id})),
            f"{len(one.kernels)} x " * (len(one.kernels) > 1) + slots_text(one.kernels[0].slots),
            *session_use(one),
            span(now - one.created_at),
            one.status_reason,
        )
        for short, one in zip(ids, sessions, strict=True)
    ]


def relative_text(other: Relative) -> str:
    return f"{other.name} ({other.id}), {other.status}"


def session_facts(one: SessionDetail) -> list[tuple[str, str]]:
    facts = [
        ("name", one.name),
        ("kernelspec", one.kernelspec),
        ("resource group", one.resource_group),
        ("kernels", _together(one) if len(one.kernels) > 1 else ""),
        ("status", one.status),
        ("reason", one.status_reason),
        *batch_words.facts(one),
        *(("depends on", relative_text(other)) for other in one.depends_on),
        *(("waits for it", relative_text(other)) for other in one.dependents),
        ("created", moment(one.created_at)),
        ("ended", moment(one.ended_at) if one.ended_at is not None else ""),
    ]
    return [fact for fact in facts if fact[1]]


def _together(one: Session) -> str:
    return f"{len(one.kernels)}, {one.cluster_mode}, failure policy {one.failure_policy}"


def kernel_facts(kernel: Kernel) -> list[tuple[str, str]]:
    facts = [
        ("id", kernel.id),
        ("status", kernel.status),
        ("reason", kernel.status_reason),
        ("agent", kernel.agent_id or ""),
        ("image", kernel.image),
        ("resources", slots_text(kernel.slots)),
        ("works in", kernel.workdir),
        *kernel_use(kernel),
        *(("folder", f"{m.target}{' (read-only)' * m.readonly}") for m in kernel.mounts),
        ("ended", f"{kernel.exit.reason}: {kernel.exit.message}" if kernel.exit else ""),
    ]
    return [fact for fact in facts if fact[1]]


def history_rows(found: SessionDetail) -> list[tuple[str, ...]]:
    names = {kernel.id: kernel.hostname for kernel in found.kernels}
    return [
        (
            moment(step.at),
            names.get(step.kernel_id, ""),
            step.after,
            "its owner" if step.by == found.owner else step.by,
            step.reason,
        )
        for step in found.history
    ]


def moment(at: float) -> str:
    """Return a time of this machine's clock with milliseconds."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
