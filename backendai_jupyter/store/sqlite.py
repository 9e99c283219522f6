"""What is SQLite's own: its file, its one writer, and how it says that it cannot.

Several processes may share one file: it is in WAL mode, so nobody waits for a reader, and
every write transaction takes the write lock at its start (BEGIN IMMEDIATE), so none has to
be given up halfway.  Within a process, writers queue for one connection.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backendai_jupyter.errors import BackendError, Unavailable
from backendai_jupyter.store.aio_sqlite import connect_aio_sqlite

BUSY_TIMEOUT_S = 10.0  # how long a write waits for the other writers of the file
_OUT_OF_REACH = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


def name_of(url: sa.URL) -> str:
    return str(url.database)


def open_engines(url: sa.URL, *, wait_s: float) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the engines of readers and writers, over a file that is made if need be."""
    _prepare_file(url)
    return _readers(url, wait_s), _writers(url, wait_s)


def migrating(url: sa.URL) -> sa.Engine:
    """Return an engine whose second user waits for the first, then finds nothing to do."""
    engine = sa.create_engine(
        url.set(drivername="sqlite"), poolclass=sa.NullPool, hide_parameters=True
    )
    _begin_immediately(engine, BUSY_TIMEOUT_S)
    return engine


async def too_old(_: AsyncConnection) -> str:
    return ""  # Python brings a SQLite that will do


def explain(error: sa.exc.DBAPIError, url: sa.URL) -> BackendError | None:
    """Return what to tell people if the file could not do its part; None for a defect."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None or code & 0xFF not in _OUT_OF_REACH:
        return None
    cause = (str(error.orig).splitlines() or [type(error.orig).__name__])[0]
    return Unavailable(
        f"The database {name_of(url)} cannot be used now ({cause}); "
        "see that it is there and writable, and try again."
    )


def _prepare_file(url: sa.URL) -> None:
    """Make the file that SQLite will write to, readable by nobody else: it holds keys."""
    path = Path(str(url.database))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _begin_immediately(engine: sa.Engine, wait_s: float) -> None:
    """Make every transaction take the write lock at its start."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # or the driver begins on its own, and too late
        _execute(connection, f"PRAGMA busy_timeout = {wait_s * 1000:.0f}")
        _execute(connection, "PRAGMA journal_mode = WAL")
        _execute(connection, "PRAGMA synchronous = NORMAL")
        _execute(connection, "PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _writers(url: sa.URL, wait_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect_aio_sqlite},
        pool_size=1,  # the queue for it is fair, SQLite's own waiting is not
        max_overflow=0,
        pool_timeout=wait_s,
        hide_parameters=True,
    )
    _begin_immediately(engine.sync_engine, wait_s)
    return engine


def _readers(url: sa.URL, wait_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect_aio_sqlite},
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_timeout=wait_s,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        _execute(connection, f"PRAGMA busy_timeout = {wait_s * 1000:.0f}")
        _execute(connection, "PRAGMA query_only = ON")

    return engine


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
