"""Open the database, hand out connections, and name it when it cannot be reached.

Several processes may share one SQLite file: it is in WAL mode, so nobody waits for a
reader, and every write transaction takes the write lock at its start (BEGIN IMMEDIATE),
so none has to be given up halfway.  Within a process, writers queue for one connection.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backendai_jupyter.errors import Unavailable
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


class Database:
    """Connections to one database; made by ``open``, used on one event loop."""

    def __init__(self, name: str, readers: AsyncEngine, writers: AsyncEngine) -> None:
        self.name = name
        self._readers = readers
        self._writers = writers

    @classmethod
    async def open(cls, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Database:
        """Connect, making the file of a SQLite ``url`` if need be.

        A write waits at most ``busy_timeout_s`` for other writers.  The schema is not looked
        at: see ``store.migrate``.  Raises ``Unavailable`` if the database is out of reach.
        """
        parsed = sa.make_url(url)
        name = name_of(parsed)
        with unavailable_as(name):
            if is_sqlite(parsed):
                await asyncio.to_thread(prepare_file, parsed)
                readers = _sqlite_readers(parsed, busy_timeout_s)
                database = cls(name, readers, _sqlite_writers(parsed, busy_timeout_s))
            else:
                engine = create_async_engine(parsed, pool_timeout=busy_timeout_s)
                database = cls(name, engine, engine)
            async with database._writers.connect():
                return database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for queries; each query sees its own moment."""
        with unavailable_as(self.name):
            async with self._readers.connect() as conn:
                yield conn

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction: committed at the end, undone by an error."""
        with unavailable_as(self.name):
            async with self._writers.begin() as conn:
                yield conn

    async def close(self) -> None:
        """Close every connection; may be called twice."""
        await self._readers.dispose()
        await self._writers.dispose()


def is_sqlite(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def name_of(url: sa.URL) -> str:
    """Return what a message may call the database: never its password."""
    if is_sqlite(url):
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def unavailable_as(name: str) -> Iterator[None]:
    """Turn the driver's ways to say "not now" into ``Unavailable`` naming the database."""
    try:
        yield
    except sa.exc.TimeoutError:
        raise Unavailable(
            f"The database {name} is too busy with other requests; try again."
        ) from None
    except sa.exc.DBAPIError as error:
        if not _is_out_of_reach(error):
            raise
        raise Unavailable(
            f"The database {name} cannot be used now ({_first_line(error.orig)}); "
            "see that it is there and writable, and try again."
        ) from error
    except OSError as error:
        raise Unavailable(
            f"The database {name} cannot be opened ({error.strerror or error})."
        ) from error


def prepare_file(url: sa.URL) -> None:
    """Make the file that SQLite will write to, readable by nobody else: it holds keys."""
    path = Path(str(url.database))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def begin_immediately(engine: sa.Engine, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
    """Make every transaction of a SQLite engine take the write lock at its start."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # or the driver begins on its own, and too late
        _execute(connection, f"PRAGMA busy_timeout = {busy_timeout_s * 1000:.0f}")
        _execute(connection, "PRAGMA journal_mode = WAL")
        _execute(connection, "PRAGMA synchronous = NORMAL")
        _execute(connection, "PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _sqlite_writers(url: sa.URL, busy_timeout_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect_aio_sqlite},
        pool_size=1,  # the queue for it is fair, SQLite's own waiting is not
        max_overflow=0,
        pool_timeout=busy_timeout_s,
    )
    begin_immediately(engine.sync_engine, busy_timeout_s=busy_timeout_s)
    return engine


def _sqlite_readers(url: sa.URL, busy_timeout_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect_aio_sqlite},
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_timeout=busy_timeout_s,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        _execute(connection, f"PRAGMA busy_timeout = {busy_timeout_s * 1000:.0f}")
        _execute(connection, "PRAGMA query_only = ON")

    return engine


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _is_out_of_reach(error: sa.exc.DBAPIError) -> bool:
    """Whether the database could not do its part, rather than refused a wrong statement."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _OUT_OF_REACH
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
