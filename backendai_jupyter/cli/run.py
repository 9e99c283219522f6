"""``jupyter backendai run``: a notebook or a command as a batch session, followed until its end."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from backendai_jupyter.cli.batch_words import sentence
from backendai_jupyter.cli.folders import connect_folders
from backendai_jupyter.cli.output import json_option, plain, print_json
from backendai_jupyter.cli.places import Places
from backendai_jupyter.cli.runs import Runs, connect_runs
from backendai_jupyter.cli.transfer import Place
from backendai_jupyter.domain.batch import RETRIABLE, RETRIED, End, SessionType
from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.web.batch_models import NewBatch
from backendai_jupyter.web.dry_run import NewSession
from backendai_jupyter.web.models import SessionDetail

_LOOK_S = 1.0
_INTERRUPTED = 130
_NOTEBOOK = ".ipynb"


@click.command()
@click.argument("words", metavar="NOTEBOOK | -- COMMAND...", nargs=-1, required=True)
@click.option("--out", metavar="PATH", help="The executed notebook.  Default: NAME.out.ipynb.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set after the cell that is tagged 'parameters'; numbers, True, False, None are read.",
)
@click.option("--raw", "raw", multiple=True, metavar="NAME=TEXT", help="The same, always a text.")
@click.option("--cpu", help="How many CPUs, e.g. 2 or 0.5.")
@click.option("--mem", help="How much memory, e.g. 8g.")
@click.option("-r", "--resource", "more", multiple=True, metavar="SLOT=AMOUNT", help="Any slot.")
@click.option("--preset", help="A named bundle of slots.")
@click.option("--kernel", default="", help="The kernelspec.  Default: the notebook's.")
@click.option("--name", default="", help="What to call the session.  Default: the file's name.")
@click.option("--cluster-size", type=int, help="How many kernels; the first one runs it.")
@click.option("--group", help="The resource group.")
@click.option("--priority", type=int, help="0 to 100; higher is tried first.")
@click.option("--not-before", metavar="TIME", help="E.g. 2026-11-28T06:00:00+09:00.")
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    metavar="FOLDER[:ALIAS[:ro]]",
    help="Show only these folders.  Default: all.",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of the environment.")
@click.option("--workdir", default="", metavar="FOLDER/PATH", help="Where it works.")
@click.option("--log", default="", metavar="PATH", help="A file for all that it prints.")
@click.option("--timeout", metavar="TIME", help="Of each attempt, e.g. 90, 30m, 1.5h.")
@click.option("--retries", type=int, default=0, help="How often to try again.")
@click.option(
    "--retry-on",
    multiple=True,
    type=click.Choice([end.value for end in RETRIABLE]),
    help=f"After which ends.  Default: {', '.join(RETRIED)}.",
)
@click.option("--upload", metavar="FOLDER[:PATH]", help="Copy the notebook there first.")
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@json_option
def run(words: Sequence[str], detach: bool, as_json: bool, **asked: Any) -> None:
    """Run a notebook, or a command, from a folder without anybody connected.

    Follows it until it has ended.  The exit code is 0 if it is done and 1 if not.  Ctrl-C asks
    whether to end it; else it goes on, unless no server runs that keeps it.
    """
    followed = Followed(as_json=as_json)
    try:
        last = asyncio.run(_run(words, asked, detach=detach, followed=followed))
    except KeyboardInterrupt:
        interrupted(followed)
        sys.exit(_INTERRUPTED)
    if as_json:
        print_json(last)
    elif detach:
        click.echo(f"{last.id} is {last.status}.")
    if not detach:
        sys.exit(0 if last.batch is not None and last.batch.end is End.DONE else 1)


class Followed:
    """Says what becomes of a session, each thing once."""

    def __init__(self, *, as_json: bool) -> None:
        self.session_id = ""
        self.keeps_running = False  # whether it goes on without this command
        self._quiet = as_json
        self._said = ""

    def say(self, text: str) -> None:
        if text and text != self._said and not self._quiet:
            click.echo(plain(text), err=True)
        self._said = text or self._said

    def tell(self, session: SessionDetail) -> None:
        self.session_id = session.id
        self.say(sentence(session))


async def _run(
    words: Sequence[str], asked: dict[str, Any], *, detach: bool, followed: Followed
) -> SessionDetail:
    new = await _new_session(words, asked)
    async with connect_runs(outlives=detach) as runs:
        followed.keeps_running = runs.outlives
        session = await runs.start(new)
        followed.tell(session)
        return session if detach else await follow(runs, session.id, followed)


async def follow(runs: Runs, session_id: str, followed: Followed) -> SessionDetail:
    """Return the session when it has ended; a server that is away is waited for."""
    while True:
        try:
            session = await runs.session(session_id)
        except Unavailable as error:
            followed.say(f"{error} The session goes on; waiting for the server.")
        else:
            followed.tell(session)
            if session.status in FINAL:
                return session
        await asyncio.sleep(_LOOK_S)


def interrupted(followed: Followed) -> None:
    """Ask what Ctrl-C meant, unless nothing has begun or goes on."""
    session_id = followed.session_id
    if session_id and followed.keeps_running:
        end = False
        if sys.stdin.isatty():
            try:
                end = click.confirm(f"\nEnd the session {session_id}?", err=True)
            except click.Abort:
                click.echo(err=True)
        if end:
            asyncio.run(_terminate(session_id))
            click.echo(f"The end of {session_id} is asked for.", err=True)
        else:
            click.echo(f"{session_id} goes on; 'session show {session_id}' says how.", err=True)


async def _terminate(session_id: str) -> None:
    async with connect_runs(outlives=True) as runs:
        await runs.terminate(session_id)


async def _new_session(words: Sequence[str], asked: dict[str, Any]) -> NewSession:
    is_notebook = len(words) == 1 and words[0].endswith(_NOTEBOOK)
    batch: dict[str, Any] = {
        "timeout": asked["timeout"],
        "retries": asked["retries"],
        "workdir": asked["workdir"],
        "log": asked["log"],
    }
    if asked["retry_on"]:
        batch["retry_on"] = list(asked["retry_on"])
    if is_notebook:
        batch |= await _notebook(words[0], asked)
    elif asked["upload"] or asked["out"]:
        raise InvalidInput("--upload" if asked["upload"] else "--out", "only of a notebook")
    else:
        batch |= {"command": list(words)}
    parameters = {**_pairs(asked["parameters"], "-p", read_value), **_pairs(asked["raw"], "--raw")}
    return NewSession(
        type=SessionType.BATCH,
        name=asked["name"],
        kernelspec=asked["kernel"],
        batch=NewBatch(**{k: v for k, v in batch.items() if v}, parameters=parameters),
        backendai=options(asked),
    )


async def _notebook(text: str, asked: dict[str, Any]) -> dict[str, str]:
    """Return where the notebook lies, uploaded if that is asked for, and where its output goes."""
    async with connect_folders() as folders:
        places = await Places.of(folders)
        if asked["upload"] is not None:
            target, local = Place.parse(asked["upload"]), Path(text)
            target = target.below(local.name)
            await folders.upload(local, target.ref, target.path, moved=lambda _: None)
            notebook = f"{target.ref}/{target.path}"
        else:
            notebook = places.of_notebook(text)
    out = asked["out"]
    return {
        "notebook": notebook,
        "output": places.of_output(out, beside=notebook) if out else "",
    }


def options(asked: dict[str, Any]) -> dict[str, object]:
    """Return the ``backendai`` object that was asked for; the server checks what is in it."""
    resources = {slot: asked[slot] for slot in ("cpu", "mem") if asked[slot]}
    given = {
        "resources": {**_pairs(asked["more"], "--resource"), **resources},
        "preset": asked["preset"],
        "cluster_size": asked["cluster_size"],
        "resource_group": asked["group"],
        "priority": asked["priority"],
        "not_before": asked["not_before"],
        "mounts": list(asked["mounts"]),
        "env": _pairs(asked["env"], "--env"),
    }
    return {name: value for name, value in given.items() if value not in (None, {}, [])}


def _pairs(
    given: Sequence[str], option: str, read: Callable[[str], object] = str
) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in given:
        name, is_there, value = one.partition("=")
        if not is_there or not name:
            raise InvalidInput(option, f"{one!r}: write NAME=VALUE")
        found[name] = read(value)
    return found


def read_value(text: str) -> object:
    """Read a parameter as papermill does: constants and numbers as such, all else as text."""
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):  # JSON has no other numbers
            return value
    return text
