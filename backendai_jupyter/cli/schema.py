"""``jupyter backendai schema``: an administrator's hand on the version of the tables."""

from __future__ import annotations

import asyncio

import click
from pydantic import BaseModel

from backendai_jupyter.cli.output import json_option, print_json
from backendai_jupyter.config import BackendAI, load_files
from backendai_jupyter.store import migrate


class Schema(BaseModel):
    """Which version of the tables a database has; None where it has none."""

    database: str
    version: str | None
    newest: str


@click.group()
def schema() -> None:
    """The version of the database's tables: show it, migrate."""


@schema.command()
@json_option
def show(as_json: bool) -> None:
    """Show which version the database has, and which one this program needs."""
    _print(asyncio.run(_look()), as_json)


@schema.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Migrate to the version of this program.

    Several at once do no harm: one migrates, the others wait for it.  A server on PostgreSQL
    starts only after this; SQLite is migrated by whatever program starts first.
    """
    asyncio.run(migrate.upgrade(_url()))
    _print(asyncio.run(_look()), as_json)


@schema.command()
@click.argument("version", type=click.Choice([migrate.BASE, *migrate.REVISIONS[:-1]]))
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def downgrade(version: str, yes: bool, as_json: bool) -> None:
    """Migrate back to an older version; what it did not have is lost.

    `base` removes all tables, with everything in them.
    """
    found = asyncio.run(_look())
    if not yes:
        click.confirm(f"{_sentence(found)} Go back to {version}?", abort=True)
    asyncio.run(migrate.downgrade(_url(), version))
    _print(asyncio.run(_look()), as_json)


def _url() -> str:
    return BackendAI(config=load_files()).database_url


async def _look() -> Schema:
    name, version = await migrate.look(_url())
    return Schema(database=name, version=version, newest=migrate.REVISIONS[-1])


def _print(found: Schema, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(_sentence(found))


def _sentence(found: Schema) -> str:
    has = f"has schema version {found.version}" if found.version else "is empty"
    return f"The database {found.database} {has}; this program's version is {found.newest}."
