"""The statements that SQLite and PostgreSQL both have and SQLAlchemy's core has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


async def insert_if_absent(
    conn: AsyncConnection, table: sa.Table, values: Mapping[str, Any]
) -> bool:
    """Insert one row and return True, or False if a unique key of it is taken."""
    statement = _insert_if_absent(conn.dialect.name, table)
    return (await conn.execute(statement, dict(values))).rowcount == 1


async def upsert(
    conn: AsyncConnection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    update: Sequence[str],
) -> None:
    """Insert ``rows``; where the primary key exists, overwrite the columns ``update``."""
    if not rows:
        return
    statement = _insert(conn.dialect.name, table)
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={column: statement.excluded[column] for column in update},
    )
    await conn.execute(statement, [dict(row) for row in rows])


async def lock_in_order(
    conn: AsyncConnection, rows: sa.Select[Any], values: Mapping[str, Any]
) -> None:
    """Lock what an UPDATE is about to change, so that no two of them wait for each other.

    An UPDATE locks rows in whatever order it finds them; ``rows`` says its order.  In SQLite
    the transaction has locked everything already.
    """
    if conn.dialect.name != "sqlite":
        await conn.execute(rows.with_for_update(), dict(values))


@cache  # building a statement costs more than running it
def _insert_if_absent(dialect: str, table: sa.Table) -> sa.Insert:
    statement = _insert(dialect, table).on_conflict_do_nothing()
    return statement.execution_options(preserve_rowcount=True)  # else psycopg's gets lost


def _insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
