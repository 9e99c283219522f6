"""``jupyter backendai session watch``: what becomes of a session, until it has ended."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import click

from backendai_jupyter.cli.api import connect_to_server, find_session
from backendai_jupyter.cli.event_stream import follow
from backendai_jupyter.cli.output import plain
from backendai_jupyter.cli.server import ServerApi
from backendai_jupyter.cli.session_create import standing
from backendai_jupyter.domain.batch import End
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.web.models import SessionDetail

_COULD_NOT_SAY = 1


@click.command()
@click.argument("session_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print each state as a line of JSON.")
def watch(session_id: str, as_json: bool) -> None:
    """Follow a session until it has ended; its last state is the exit code.

    0: it has ended well, or its owner ended it.  1: it has not, or was cancelled.
    """
    last = asyncio.run(_watch(session_id, as_json=as_json))
    sys.exit(exit_code(last))


async def _watch(beginning: str, *, as_json: bool) -> SessionDetail:
    said = ""
    async with connect_to_server() as api:
        session_id = await find_session(api, beginning)
        async for state in _states(api, session_id):
            line = state.model_dump_json() if as_json else sentence(state, now=time.time())
            if line != said:
                click.echo(line)
            said = line
    return state


async def _states(api: ServerApi, session_id: str) -> AsyncIterator[SessionDetail]:
    """Yield the session whenever something has happened to it; the last time when it is over."""
    state = await api.session(session_id)
    yield state
    if state.status in FINAL:
        return
    async for event in follow(api.server):
        if event is not None and event.session_id != session_id:
            continue
        state = await api.session(session_id)
        yield state
        if state.status in FINAL:
            return


def sentence(state: SessionDetail, *, now: float) -> str:
    """Return one line for people."""
    what = state.status_reason
    if state.status is Status.PENDING and state.pending is not None:
        what = standing(state.pending, now=now)
    elif state.status in FINAL and (ending := state.kernels[0].exit) is not None:
        what = ending.message
    where = ", ".join(sorted({k.agent_id for k in state.kernels if k.agent_id}))
    parts = [state.status, f"on {where}" if where else "", plain(what)]
    return "  ".join(part for part in parts if part)


def exit_code(state: SessionDetail) -> int:
    if state.batch is not None:
        return 0 if state.batch.end is End.DONE else _COULD_NOT_SAY
    ending = state.kernels[0].exit
    is_well = state.status is Status.TERMINATED and (ending is None or ending.code == 0)
    return 0 if is_well else _COULD_NOT_SAY
