"""What is PostgreSQL's own: connections, time-outs, and how it says that it cannot.

Transactions are READ COMMITTED: correctness rests on guarded UPDATEs and row locks, not on
snapshots.  Every wait for the server ends: the server gives up on locks and statements that
take too long, and a server that says nothing at all is cut off from here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.types.string import StrDumperUnknown
from psycopg.waiting import READY_R
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backendai_jupyter.config.manager import DATABASE_URL
from backendai_jupyter.errors import BackendError, GaveWay, InvalidInput, Unavailable

RV = TypeVar("RV")

OLDEST = 13  # the oldest major version that its makers had not given up when this was written
ANSWER_TIMEOUT_S = 15.0  # longer than the server's own limits, which say what was the matter
STALE_S = 30.0  # after so much silence a firewall may have forgotten a connection,
FIRST_ANSWER_TIMEOUT_S = 3.0  # and it is tried, and made anew where nothing comes for so long
_CONNECT_TIMEOUT_S = 5
_POOL_SIZE = 5  # of readers, and as many of writers: ten connections for each server
_MIGRATION_LOCK = 0x6261636B656E6461  # "backenda": ours among the database's advisory locks
_SESSION = {
    "default_transaction_isolation": r"read\ committed",
    "lock_timeout": "10s",
    "statement_timeout": "12s",
    "idle_in_transaction_session_timeout": "30s",  # of a program that was stopped in between
}
_CONNECTION = {
    "application_name": "backendai_jupyter",
    "connect_timeout": str(_CONNECT_TIMEOUT_S),
    "keepalives_idle": "30",  # firewalls forget what is silent for longer
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_TOLD = ("host", "port", "dbname", "service")  # of a URL's query; the rest may be secret

_GAVE_WAY = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_TOO_LONG = frozenset({"55P03", "57014"})  # lock_timeout, statement_timeout
_READ_ONLY = "25006"
_NO_RIGHT = "42501"
_LEFT_IDLE = "25P03"


def name_of(url: sa.URL) -> str:
    told = {key: value for key, value in url.query.items() if key in _TOLD}
    return url.set(query=told).render_as_string(hide_password=True)


def open_engines(url: sa.URL, *, wait_s: float) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the engines of readers and writers; nothing is connected yet."""
    readers = _engine(
        url, wait_s, read_only=True, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True
    )
    return readers, _engine(url, wait_s)


def migrating(url: sa.URL) -> sa.Engine:
    """Return an engine whose second user waits for the first, then finds nothing to do."""
    engine = sa.create_engine(
        url, poolclass=sa.NullPool, connect_args=_connect_args(url), hide_parameters=True
    )

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")

    return engine


async def too_old(conn: AsyncConnection) -> str:
    number = int(await conn.scalar(sa.text("SHOW server_version_num")) or 0)
    if number >= OLDEST * 10_000:
        return ""
    return f"PostgreSQL {number // 10_000} is too old: {OLDEST} or newer is needed."


def explain(error: sa.exc.DBAPIError, url: sa.URL) -> BackendError | None:
    """Return what to tell people if the server could not do its part; None for a defect."""
    name, cause = name_of(url), _cause(error.orig, url)
    state = getattr(error.orig, "sqlstate", None)
    if state in _GAVE_WAY:
        return GaveWay(f"The database {name} had too many changes at once; try again.")
    if state in _TOO_LONG:
        return Unavailable(f"The database {name} is too busy now ({cause}); try again.")
    if state == _READ_ONLY:
        return Unavailable(
            f"The database {name} cannot be written to ({cause}); "
            "let BackendAI.database_url name the primary server."
        )
    if state == _NO_RIGHT:
        return Unavailable(
            f"The database {name} does not let its user do this ({cause}); grant it the right."
        )
    if state is None and isinstance(error, sa.exc.ProgrammingError):  # libpq did not even try
        return InvalidInput(DATABASE_URL, cause)
    if state == _LEFT_IDLE or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return Unavailable(
            f"The database {name} cannot be used now ({cause}); see that it runs and lets "
            "us in as BackendAI.database_url says, and try again."
        )
    return None


class WatchedConnection(psycopg.AsyncConnection[Any]):
    """A connection on which no wait is endless.

    A cancelled wait would ask the server to cancel, and wait for that; a closed socket cannot
    be argued with, and ends every wait as a server does that has died.
    """

    _gave_up = False
    _heard: float | None = None  # by the event loop's clock, when the server last answered

    async def wait(self, gen: Generator[Any, Any, RV], *args: Any, **kwargs: Any) -> RV:
        loop = asyncio.get_running_loop()
        is_stale = self._heard is not None and loop.time() - self._heard > STALE_S
        limit_s = FIRST_ANSWER_TIMEOUT_S if is_stale else ANSWER_TIMEOUT_S
        timer = loop.call_later(limit_s, self._give_up)
        try:
            return await super().wait(self._heeding(gen), *args, **kwargs)
        except psycopg.OperationalError:
            if not self._gave_up:
                raise
            problem = f"no answer within {limit_s:.0f} s"
            raise psycopg.errors.ConnectionTimeout(problem) from None
        finally:
            timer.cancel()

    def _heeding(self, gen: Generator[Any, Any, RV]) -> Generator[Any, Any, RV]:
        """Take note of each answer; some calls only set what the next one says."""
        loop = asyncio.get_running_loop()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready & READY_R:
                    self._heard = loop.time()
                wanted = gen.send(ready)
        except StopIteration as done:
            result: RV = done.value
            return result

    def _give_up(self) -> None:
        self._gave_up = True
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)


class TextDumper(StrDumperUnknown):
    """Text without NUL, which PostgreSQL does not store and a dying kernel may print."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def _engine(url: sa.URL, wait_s: float, *, read_only: bool = False, **options: Any) -> AsyncEngine:
    connect_args = _connect_args(url, _server_options(url, read_only=read_only))
    engine = create_async_engine(
        url,
        connect_args={**connect_args, "async_creator_fn": WatchedConnection.connect},
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=wait_s,
        pool_pre_ping=True,  # else each connection would fail once after the server's restart
        hide_parameters=True,
        **options,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.adapters.register_dumper(str, TextDumper)

    return engine


def _connect_args(url: sa.URL, more: dict[str, str] | None = None) -> dict[str, str]:
    """Return what the URL leaves open, and what it may not override."""
    return {k: v for k, v in _CONNECTION.items() if k not in url.query} | (more or {})


def _server_options(url: sa.URL, *, read_only: bool) -> dict[str, str]:
    """Return our settings as a part of the connection's, those of the URL last."""
    settings = {**_SESSION, "default_transaction_read_only": "on" if read_only else "off"}
    options = [f"-c {name}={value}" for name, value in settings.items()]
    given = url.query.get("options", "")
    return {"options": " ".join([*options, given if isinstance(given, str) else " ".join(given)])}


def _cause(error: BaseException | None, url: sa.URL) -> str:
    """Return the first line of what the driver says, without the password."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    secrets = [url.password, url.query.get("password"), url.query.get("sslpassword")]
    for secret in secrets:
        if secret:
            line = line.replace(str(secret), "***")
    return line
