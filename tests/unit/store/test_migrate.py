"""Migrations: they make what tables.py says, once, and can be taken back."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.errors import WrongSchema
from backendai_jupyter.store import migrate
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.tables import metadata
from backendai_jupyter.store.vfolders import VFolderStore

TABLES = set(metadata.tables) | {"alembic_version"}
NOT_IN_PARENTHESES = re.compile(r",(?![^()]*\))")
UPGRADE = "import asyncio, sys; from backendai_jupyter.store.migrate import upgrade; "
UPGRADE += "asyncio.run(upgrade(sys.argv[1]))"


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


def tables_of(path: Path) -> set[str]:
    engine = sa.create_engine(f"sqlite:///{path}")
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_migrations_make_the_tables_that_the_code_uses(migrated: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{migrated}")
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_migrated_schema_is_word_for_word_that_of_the_tables(migrated: Path) -> None:
    def statements(engine: sa.Engine) -> dict[str, list[str]]:
        query = sa.text("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        with engine.connect() as conn:
            found = {name: sql for name, sql in conn.execute(query) if name != "alembic_version"}
        engine.dispose()
        return {name: sorted(definitions(sql)) for name, sql in found.items()}

    fresh = sa.create_engine("sqlite://")
    metadata.create_all(fresh)
    assert statements(sa.create_engine(f"sqlite:///{migrated}")) == statements(fresh)


def definitions(sql: str) -> list[str]:
    """Return a statement's lines; SQLite puts a column that came later on the line of another."""
    parts = (part for line in sql.splitlines() for part in NOT_IN_PARENTHESES.split(line))
    return [part.strip() for part in parts if part.strip()]


def test_the_list_of_revisions_is_that_of_the_scripts() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert tuple(s.revision for s in scripts.walk_revisions())[::-1] == migrate.REVISIONS


async def test_downgrade_to_base_leaves_nothing_and_upgrade_brings_it_back(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "backendai.db"
    assert tables_of(path) == TABLES
    await migrate.downgrade(url)
    assert tables_of(path) == {"alembic_version"}
    await migrate.upgrade(url)
    assert tables_of(path) == TABLES


async def test_an_upgrade_with_nothing_to_do_does_not_run_alembic(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: str, url: str, revision: str) -> None:
        raise AssertionError("Alembic ran")

    monkeypatch.setattr(migrate, "_alembic", fail)
    durations_s = []
    for _ in range(10):
        started = time.perf_counter()
        await migrate.upgrade(url)
        durations_s.append(time.perf_counter() - started)
    assert min(durations_s) < 0.05  # 6 ms here; an Alembic run is several times this


async def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "backendai.db"
    url = f"sqlite+aiosqlite:///{path}"
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", UPGRADE, url, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert tables_of(path) == TABLES
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM resource_presets").fetchone() == (3,)
    connection.close()


async def test_many_tasks_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/100% new/backendai.db"
    await migrate.upgrade(url)
    await asyncio.gather(*(migrate.upgrade(url) for _ in range(8)))
    assert tables_of(tmp_path / "100% new" / "backendai.db") == TABLES


async def test_a_database_from_the_future_is_refused(url: str) -> None:
    database = await Database.open(url)
    async with database.write() as conn:
        await conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(WrongSchema, match="9999"):
        await migrate.upgrade(url)


def folder_names(path: Path) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id, name, status FROM vfolders ORDER BY id").fetchall()
    connection.close()
    return rows


async def test_folders_survive_the_way_up_and_down(url: str, tmp_path: Path) -> None:
    path = tmp_path / "backendai.db"
    await migrate.downgrade(url, "0001")
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO users VALUES ('u', 'owner', 1.0)")
    connection.execute("INSERT INTO vfolders VALUES ('1', 'u', 'data', 'local', '/v', 'ready', 1)")
    connection.commit()
    connection.close()
    await migrate.upgrade(url)
    database = await Database.open(url)
    folders, viewer = VFolderStore(database), Viewer("u")
    assert not (await folders.get("data", viewer)).readonly
    await folders.trash("1", viewer, now=2.0)
    await folders.create("u", "data", host="local", path="/w", id="2", now=2.0)
    await database.close()
    await migrate.downgrade(url, "0001")
    assert folder_names(path) == [("2", "data", "ready")]
    await migrate.upgrade(url)
    assert folder_names(path) == [("2", "data", "ready")]
