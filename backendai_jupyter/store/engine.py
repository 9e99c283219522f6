"""Open the database, hand out connections, and name it when it cannot be reached.

What SQLite and PostgreSQL do each in their own way is in the two modules of these names; all
the rest of the store is the same for both.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backendai_jupyter.config.manager import DATABASE_URL
from backendai_jupyter.errors import BackendError, InDoubt, InvalidInput, Unavailable
from backendai_jupyter.store import sqlite

WAIT_S = 10.0  # how long a write waits for others


class Kind(Protocol):
    """What the modules ``sqlite`` and ``postgres`` have in common."""

    def name_of(self, url: sa.URL) -> str: ...

    def open_engines(self, url: sa.URL, *, wait_s: float) -> tuple[AsyncEngine, AsyncEngine]: ...

    def migrating(self, url: sa.URL) -> sa.Engine: ...

    async def too_old(self, conn: AsyncConnection) -> str: ...

    def explain(self, error: sa.exc.DBAPIError, url: sa.URL) -> BackendError | None: ...


class Database:
    """Connections to one database; made by ``open``, used on one event loop."""

    def __init__(self, url: sa.URL, readers: AsyncEngine, writers: AsyncEngine) -> None:
        self._url = url
        self._readers = readers
        self._writers = writers

    @classmethod
    async def open(cls, url: str, *, busy_timeout_s: float = WAIT_S) -> Database:
        """Connect, making the file of a SQLite ``url`` if need be.

        A write waits at most ``busy_timeout_s`` for other writers.  The schema is not looked
        at: see ``store.migrate``.  Raises ``Unavailable`` if the database is out of reach.
        """
        parsed = parse_url(url)
        with unavailable_as(parsed):
            opening = kind_of(parsed).open_engines
            engines = await asyncio.to_thread(opening, parsed, wait_s=busy_timeout_s)
            database = cls(parsed, *engines)
            async with database._writers.connect():
                return database

    @property
    def name(self) -> str:
        """What a message may call the database."""
        return name_of(self._url)

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it too."""
        return not is_sqlite(self._url)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for queries; each query sees its own moment."""
        with unavailable_as(self._url):
            async with self._readers.connect() as conn:
                yield conn

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction: committed at the end, undone by an error.

        Raises ``InDoubt`` if the connection broke before the commit was confirmed, and
        ``GaveWay`` if the transaction was undone in favour of another; see ``store.retry``.
        """
        with unavailable_as(self._url):
            async with self._writers.connect() as conn, conn.begin() as transaction:
                yield conn
                try:
                    await transaction.commit()
                except sa.exc.DBAPIError as error:
                    if not error.connection_invalidated:
                        raise
                    raise InDoubt(
                        f"The connection to the database {self.name} broke before it confirmed "
                        "a change, which may have been made or not; look before you try again."
                    ) from error

    async def too_old(self) -> str:
        """Return what is said against the server's version; nothing if it will do."""
        async with self.read() as conn:
            return await kind_of(self._url).too_old(conn)

    async def close(self) -> None:
        """Close every connection; may be called twice."""
        await self._readers.dispose()
        await self._writers.dispose()


def parse_url(text: str) -> sa.URL:
    """Read ``BackendAI.database_url``, for errors about which it is named and not shown."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise InvalidInput(
            DATABASE_URL, "is not a URL such as postgresql://user@host/database"
        ) from None
    return url if is_sqlite(url) else url.set(drivername="postgresql+psycopg")


def is_sqlite(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def kind_of(url: sa.URL) -> Kind:
    if is_sqlite(url):
        return sqlite
    # Importing psycopg takes longer than opening an SQLite file, for which nobody needs it.
    postgres: Any = importlib.import_module("backendai_jupyter.store.postgres")
    kind: Kind = postgres
    return kind


def name_of(url: sa.URL) -> str:
    """Return what a message may call the database: never its password."""
    return kind_of(url).name_of(url)


@contextmanager
def unavailable_as(url: sa.URL) -> Iterator[None]:
    """Turn the driver's ways to say "not now" into ``Unavailable`` naming the database."""
    try:
        yield
    except sa.exc.TimeoutError:
        raise Unavailable(
            f"The database {name_of(url)} is too busy with other requests; try again."
        ) from None
    except sa.exc.DBAPIError as error:
        if (told := kind_of(url).explain(error, url)) is None:
            raise
        raise told from error
    except OSError as error:
        raise Unavailable(
            f"The database {name_of(url)} cannot be opened ({error.strerror or error})."
        ) from error
