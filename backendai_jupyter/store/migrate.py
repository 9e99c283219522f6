"""Bring a database's schema to the version that this package was written for."""

from __future__ import annotations

import asyncio
import importlib
import logging
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.errors import Conflict
from backendai_jupyter.store.engine import Database, name_of, unavailable_as

REVISIONS = ("0001", "0002", "0003", "0004", "0005")  # the schema's versions, oldest first
_SCRIPTS = Path(__file__).parent / "migrations"


async def upgrade(url: str) -> None:
    """Migrate to the newest version; cheap if there is nothing to do.

    Safe while other processes do the same.  Raises ``Conflict`` if a newer version of this
    package has migrated further.
    """
    database = await Database.open(url)
    try:
        async with database.read() as conn:
            present = await revision_of(conn)
    finally:
        await database.close()
    if present is not None and present not in REVISIONS:
        raise Conflict(
            f"The database {database.name} has schema version {present}, newer than this "
            f"program's {REVISIONS[-1]}: upgrade backendai-jupyter or use another database."
        )
    if present != REVISIONS[-1]:
        await asyncio.to_thread(_alembic, "upgrade", url, REVISIONS[-1])


async def downgrade(url: str, revision: str = "base") -> None:
    """Migrate back to ``revision``; what it did not have is lost."""
    await asyncio.to_thread(_alembic, "downgrade", url, revision)


async def revision_of(conn: AsyncConnection) -> str | None:
    """Return the version of the schema that a database has; None without one."""
    if not await conn.run_sync(lambda sync: sa.inspect(sync).has_table("alembic_version")):
        return None
    found: str | None = await conn.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def _alembic(command: str, url: str, revision: str) -> None:
    # Importing Alembic takes longer than all the rest of a start that has nothing to migrate.
    config: Any = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["url"] = sa.make_url(url)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a batch run shows what is INFO
    with unavailable_as(name_of(config.attributes["url"])):
        getattr(importlib.import_module("alembic.command"), command)(config, revision)
