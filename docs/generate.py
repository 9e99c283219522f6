"""Keep the tables of the documentation that the code itself can tell: ``python docs/generate.py``.

A table stands between two comments in a page, ``<!-- generated: NAME -->`` and
``<!-- end of NAME -->``.  With ``--check`` nothing is written, and a page that is out of date
is shown as a difference; a test does that.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from traitlets import Bool, Dict, Enum, Float, Int, List, TraitType, Unicode
from traitlets.config import Configurable

from backendai_jupyter import errors
from backendai_jupyter.cli.main import PROGRAM
from backendai_jupyter.cli.main import commands as command_line
from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.domain import states
from backendai_jupyter.domain.records import Preset
from backendai_jupyter.domain.resources import SLOT_UNITS
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.presets import PresetStore
from backendai_jupyter.web import openapi
from backendai_jupyter.web.base import status_of

DOCS = Path(__file__).parent
PYPROJECT = DOCS.parent / "pyproject.toml"
_BLOCK = re.compile(
    r"(?P<start><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)",
    re.DOTALL,
)
_GROUPS: Mapping[str, frozenset[Status]] = {
    "holds slots": states.HOLDS_SLOTS,
    "counts for the quota": states.COUNTS_FOR_QUOTA,
    "is assigned": states.ASSIGNED,
    "final": states.FINAL,
}
_KINDS: Mapping[type, str] = {
    Bool: "`True` or `False`",
    Dict: "Names and values",
    Float: "Number",
    Int: "Whole number",
    List: "List",
    Unicode: "Text",
}


def config() -> Iterator[str]:
    """Every setting, from the traits."""
    for section, whose in ((BackendAI, "the manager"), (BackendAIAgent, "the agent")):
        yield f"## `c.{section.__name__}`: {whose}\n"
        for name, trait in section.class_traits(config=True).items():
            yield from _setting(section, name, trait)


def statuses() -> Iterator[str]:
    """Every status, from the comments beside the enumeration and the sets below it."""
    source = inspect.getsource(Status)
    meanings = dict(re.findall(r"^    (\w+) = .*?  # (.*)$", source, re.MULTILINE))
    rows = [
        (
            f"`{status}`",
            meanings[status.name],
            ", ".join(f"`{s}`" for s in Status if s in states.TRANSITIONS[status]) or "none",
            ", ".join(group for group, members in _GROUPS.items() if status in members),
        )
        for status in Status
    ]
    yield _table(("status", "meaning", "may become", "groups"), rows)


def error_codes() -> Iterator[str]:
    """Every error, from the tree at the top of errors.py and the mapping of the web layer."""
    tree = re.findall(r"^ *[x+] (\w+) +(.+)$", errors.__doc__ or "", re.MULTILINE)
    kinds = [(getattr(errors, name), meaning) for name, meaning in tree]
    rows = [
        (f"`{k.code}`", str(status_of(_bare(k))), meaning.replace("``", "`"))
        for k, meaning in kinds
    ]
    yield _table(("code", "HTTP", "meaning"), rows)


def layers() -> Iterator[str]:
    """Who may import whom, from the contract that the tests enforce."""
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    lines = next(c["layers"] for c in contracts if c["type"] == "layers")
    present = {path.stem for path in (DOCS.parent / "backendai_jupyter").iterdir()}
    yield "```text"
    for line in lines:
        parts = re.split(r" ([:|]) ", line)
        names = [part.strip("()") for part in parts[::2]]
        separator = f"  {parts[1]}  " if len(parts) > 1 else ""
        yield separator.join(name for name in names if name in present)
    yield "```\n"


def slots() -> Iterator[str]:
    """The slots that this version knows."""
    yield _table(("slot", "unit"), [(f"`{slot}`", str(unit)) for slot, unit in SLOT_UNITS.items()])


def presets() -> Iterator[str]:
    """The presets of a new database."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_presets(f"sqlite+aiosqlite:///{folder}/new.sqlite"))
    yield _table(("preset", "slots"), [(f"`{p.name}`", p.slots.for_people()) for p in found])


def commands() -> Iterator[str]:
    """Every command, from click."""
    with click.Context(command_line, info_name=PROGRAM, terminal_width=88) as context:
        yield from _command(command_line, context)


def rest() -> Iterator[str]:
    """Every request under ``/backendai/v1``, from the API document that a server gives out."""
    paths = openapi.document_of(openapi.routes).root["paths"]
    rows = [
        (f"`{verb.upper()} {path}`", said["summary"], _parameters(said), _answer(said))
        for path, verbs in paths.items()
        for verb, said in verbs.items()
    ]
    yield _table(("request", "what it does", "query parameters", "answer"), rows)


BLOCKS: Mapping[str, Callable[[], Iterator[str]]] = {
    "config": config,
    "statuses": statuses,
    "errors": error_codes,
    "layers": layers,
    "slots": slots,
    "presets": presets,
    "commands": commands,
    "rest": rest,
}


def main(arguments: Sequence[str]) -> int:
    check = "--check" in arguments
    outdated = 0
    for page in sorted(DOCS.rglob("*.md")):
        old = page.read_text()
        new = _BLOCK.sub(_filled, old)
        if new == old:
            continue
        outdated += 1
        if check:
            name = str(page.relative_to(DOCS.parent))
            lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(*lines, name, f"{name} as it should be"))
        else:
            page.write_text(new)
    return 1 if check and outdated else 0


def _filled(block: re.Match[str]) -> str:
    return f"{block['start']}\n{chr(10).join(BLOCKS[block['name']]())}\n{block['end']}"


def _setting(section: type[Configurable], name: str, trait: TraitType[Any, Any]) -> Iterator[str]:
    yield f"### `{section.__name__}.{name}`\n"
    text = inspect.cleandoc(trait.help)
    kind = _KINDS.get(type(trait), "")
    if isinstance(trait, Enum):
        kind = "One of " + ", ".join(f"`{value}`" for value in trait.values or ())
    # A default that is worked out is described by the text.
    default = "" if "Default:" in text else f"; default `{trait.default_value_repr()}`"
    shared = "; may be shared" if trait.metadata.get("shared") else ""
    yield f"{kind}{default}{shared}.\n"
    yield f"{text}\n".replace("``", "`")


def _bare(kind: type[errors.BackendError]) -> errors.BackendError:
    """Return an error of this class; what it would say does not matter."""
    return kind.__new__(kind)


async def _presets(url: str) -> tuple[Preset, ...]:
    await upgrade(url)
    database = await Database.open(url)
    try:
        return await PresetStore(database).list()
    finally:
        await database.close()


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if member is not None:
                with click.Context(member, info_name=name, parent=context) as below:
                    yield from _command(member, below)
        return
    yield f"## `{context.command_path}`\n"
    yield f"```text\n{command.get_help(context)}\n```\n"


def _parameters(said: Mapping[str, Any]) -> str:
    return ", ".join(f"`{p['name']}`" for p in said["parameters"] if p["in"] == "query")


def _answer(said: Mapping[str, Any]) -> str:
    (status, answer), *_ = said["responses"].items()
    return f"{status}: {answer['description']}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = (head, ["---"] * len(head), *rows)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in every]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
