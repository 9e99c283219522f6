"""Run each SQLite statement with one visit to aiosqlite's thread instead of four.

aiosqlite makes a cursor, executes, fetches and closes in a visit each, and a visit costs
as much as a small statement.  SQLAlchemy accepts a connection that we make.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import aiosqlite


class AioConnection(aiosqlite.Connection):
    """An aiosqlite connection whose cursors do a statement's work in one go."""

    def cursor(self) -> AioCursor:  # type: ignore[override]
        return AioCursor(self._execute, self._conn.cursor())


class AioCursor:
    """The part of aiosqlite's cursor that SQLAlchemy uses; rows are read at once."""

    def __init__(self, in_thread: Callable[..., Any], cursor: sqlite3.Cursor) -> None:
        self._in_thread = in_thread
        self._cursor = cursor
        self._rows: list[Any] = []

    async def __aenter__(self) -> AioCursor:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> AioCursor:
        await self._in_thread(self._run, self._cursor.execute, statement, parameters)
        return self

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> AioCursor:
        await self._in_thread(self._run, self._cursor.executemany, statement, rows)
        return self

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        """Do nothing: a statement that ran holds nothing, one that runs is the thread's."""

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._cursor.lastrowid

    def _run(self, work: Callable[..., Any], statement: str, parameters: Any) -> None:
        work(statement, parameters)
        self._rows = self._cursor.fetchall() if self._cursor.description else []


def connect_aio_sqlite(database: str, **options: Any) -> AioConnection:
    """Return a connection to await; its thread does not keep the process alive."""
    connection = AioConnection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True
    return connection
