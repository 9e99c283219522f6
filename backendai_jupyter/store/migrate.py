"""Bring a database's schema to the version that this package was written for."""

from __future__ import annotations

import asyncio
import importlib
import logging
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.errors import WrongSchema
from backendai_jupyter.store.engine import Database, is_sqlite, parse_url, unavailable_as

REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
)  # the schema's versions, oldest first
BASE = "base"  # Alembic's word for a database without any of them
_COMMAND = "jupyter backendai schema upgrade"
_SCRIPTS = Path(__file__).parent / "migrations"


async def make_ready(url: str) -> None:
    """Let a program start on the database: SQLite is migrated, PostgreSQL must have been.

    Other programs may be at work on a server, and its user need not have the right.  Raises
    ``WrongSchema`` with the command to run.
    """
    if is_sqlite(parse_url(url)):
        await upgrade(url)
        return
    name, present = await look(url)
    if present is None:
        raise WrongSchema(f"The database {name} is empty: run '{_COMMAND}' once.")
    _check_known(name, present)
    if present != REVISIONS[-1]:
        raise WrongSchema(
            f"The database {name} has schema version {present}, older than this program's "
            f"{REVISIONS[-1]}: stop the servers that use it, make a backup, run '{_COMMAND}'."
        )


async def upgrade(url: str) -> None:
    """Migrate to the newest version; cheap if there is nothing to do.

    Safe while other processes do the same.  Raises ``WrongSchema`` if a newer version of this
    package has migrated further.
    """
    name, present = await look(url)
    _check_known(name, present)
    if present != REVISIONS[-1]:
        await asyncio.to_thread(_alembic, "upgrade", url, REVISIONS[-1])


async def downgrade(url: str, revision: str = BASE) -> None:
    """Migrate back to ``revision``; what it did not have is lost.

    Raises ``WrongSchema`` for a schema that this package does not know or that is older.
    """
    name, present = await look(url)
    _check_known(name, present)
    steps = (BASE, *REVISIONS)
    if steps.index(present or BASE) < steps.index(revision):
        raise WrongSchema(
            f"The database {name} has schema version {present or BASE}, older than {revision}."
        )
    await asyncio.to_thread(_alembic, "downgrade", url, revision)


async def revision_of(conn: AsyncConnection) -> str | None:
    """Return the version of the schema that a database has; None without one."""
    if not await conn.run_sync(lambda sync: sa.inspect(sync).has_table("alembic_version")):
        return None
    found: str | None = await conn.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


async def look(url: str) -> tuple[str, str | None]:
    """Return the database's name and the version of its schema."""
    database = await Database.open(url)
    try:
        async with database.read() as conn:
            return database.name, await revision_of(conn)
    finally:
        await database.close()


def _check_known(name: str, present: str | None) -> None:
    if present is not None and present not in REVISIONS:
        raise WrongSchema(
            f"The database {name} has schema version {present}, newer than this "
            f"program's {REVISIONS[-1]}: upgrade backendai-jupyter or use another database."
        )


def _alembic(command: str, url: str, revision: str) -> None:
    # Importing Alembic takes longer than all the rest of a start that has nothing to migrate.
    config: Any = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["url"] = parse_url(url)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a batch run shows what is INFO
    with unavailable_as(config.attributes["url"]):
        getattr(importlib.import_module("alembic.command"), command)(config, revision)
