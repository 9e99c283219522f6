"""The schema on PostgreSQL: who migrates it, who waits, who is refused, and what doctor says."""

from __future__ import annotations

import asyncio
import sys

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from traitlets.config import Config

from backendai_jupyter.cli import machine
from backendai_jupyter.cli.findings import Found, Settings, State
from backendai_jupyter.errors import Unavailable, WrongSchema
from backendai_jupyter.store import migrate
from backendai_jupyter.store import postgres as dialect
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.tables import metadata
from tests.helpers import eventually
from tests.postgres import NewDatabase, PrivatePostgres

TABLES = set(metadata.tables) | {"alembic_version"}
UPGRADE = "import asyncio, sys; from backendai_jupyter.store.migrate import upgrade; "
UPGRADE += "asyncio.run(upgrade(sys.argv[1]))"


@pytest.fixture(scope="module")
def emptied(postgres: PrivatePostgres) -> str:
    return postgres.new_database()


@pytest.fixture
async def empty(emptied: str) -> str:
    """The URL of a database without tables."""
    await migrate.downgrade(emptied)
    execute(emptied, "DROP TABLE IF EXISTS alembic_version")
    return emptied


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def tables_of(url: str) -> set[str]:
    engine = sa.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


async def check(url: str) -> Found:
    config = Config()
    config.BackendAI.database_url = url
    return await machine.database(Settings.of(config))


def test_migrations_make_the_tables_that_the_code_uses(
    postgres_database: NewDatabase,
) -> None:
    engine = sa.create_engine(postgres_database().replace("postgresql", "postgresql+psycopg", 1))
    with engine.connect() as conn:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []
    engine.dispose()


async def test_each_step_can_be_taken_back_and_forth(empty: str) -> None:
    await migrate.upgrade(empty)
    for revision in (*reversed(migrate.REVISIONS[:-1]), migrate.BASE):
        await migrate.downgrade(empty, revision)
        _, present = await migrate.look(empty)
        assert (present or migrate.BASE) == revision
    assert tables_of(empty) == {"alembic_version"}
    with pytest.raises(WrongSchema, match="older than 0001"):
        await migrate.downgrade(empty, "0001")
    await migrate.upgrade(empty)
    assert tables_of(empty) == TABLES


async def test_processes_that_upgrade_at_once_migrate_once(empty: str) -> None:
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", UPGRADE, empty, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * 3, outputs
    assert tables_of(empty) == TABLES


async def test_the_second_who_upgrades_waits_for_the_first(empty: str) -> None:
    """However long the first one takes."""
    with psycopg.connect(empty) as first:
        first.execute(f"SELECT pg_advisory_xact_lock({dialect._MIGRATION_LOCK})")
        second = asyncio.create_task(migrate.upgrade(empty))
        waiting = b"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await eventually(lambda: first.execute(waiting).fetchone() == (1,))
        assert not second.done()
        assert tables_of(empty) == set()
    await second
    assert tables_of(empty) == TABLES


async def test_a_start_refuses_a_schema_that_is_not_its_own(empty: str) -> None:
    with pytest.raises(WrongSchema, match="is empty: run 'jupyter backendai schema upgrade'"):
        await migrate.make_ready(empty)
    assert tables_of(empty) == set()
    assert (await check(empty)).advice == "jupyter backendai schema upgrade"
    await migrate.upgrade(empty)
    await migrate.make_ready(empty)
    assert await check(empty) == Found(State.OK, f"schema version {migrate.REVISIONS[-1]}")
    await migrate.downgrade(empty, migrate.REVISIONS[-2])
    with pytest.raises(WrongSchema, match=r"older than .* run 'jupyter backendai schema upgrade'"):
        await migrate.make_ready(empty)
    assert (await check(empty)).advice == "jupyter backendai schema upgrade"
    execute(empty, "UPDATE alembic_version SET version_num = '9999'")
    for use in (migrate.make_ready, migrate.upgrade, migrate.downgrade):
        with pytest.raises(WrongSchema, match="9999, newer than"):
            await use(empty)
    assert (await check(empty)).state is State.FAIL
    execute(empty, f"UPDATE alembic_version SET version_num = '{migrate.REVISIONS[-2]}'")


async def test_a_server_that_is_too_old_is_told(
    postgres_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "OLDEST", 99)
    found = await check(postgres_database())
    assert found.state is State.FAIL
    assert "too old: 99 or newer" in found.message


async def test_a_user_without_rights_is_told_which(postgres: PrivatePostgres, empty: str) -> None:
    postgres.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
    poor = empty.replace(f"backendai:{postgres.password}", "poor:poor")
    with pytest.raises(Unavailable, match="permission denied for schema public"):
        await migrate.upgrade(poor)
    await migrate.upgrade(empty)
    database = await Database.open(poor)
    with pytest.raises(Unavailable, match="permission denied for table"):
        async with database.read() as conn:
            await conn.execute(sa.select(metadata.tables["users"]))
    await database.close()
