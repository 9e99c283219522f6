"""The database's edge: files, transactions, and what happens when it is out of reach."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from traitlets import TraitError

from backendai_jupyter.config import BackendAI
from backendai_jupyter.errors import BackendError, Unavailable
from backendai_jupyter.store.engine import Database, name_of
from backendai_jupyter.store.tables import users
from tests.unit.store.samples import add_user


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


async def names(database: Database) -> list[str]:
    async with database.read() as conn:
        return list((await conn.execute(sa.select(users.c.name))).scalars())


async def test_only_its_user_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "backendai.db"
    database = await Database.open(f"sqlite+aiosqlite:///{path}")
    async with database.write() as conn:
        await conn.execute(sa.text("CREATE TABLE t (x INTEGER)"))
        files = [p for p in path.parent.iterdir() if p.name.startswith("backendai.db")]
        assert len(files) == 3  # with its write-ahead log
        assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    await database.close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_others_could_read_is_closed_to_them(url: str, tmp_path: Path) -> None:
    path = tmp_path / "backendai.db"
    path.chmod(0o644)
    await (await Database.open(url)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_read_connection_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        async with database.read() as conn:
            await conn.execute(sa.delete(users))


async def test_a_lock_held_too_long_elsewhere_is_unavailable_by_name(
    url: str, tmp_path: Path
) -> None:
    database = await Database.open(url, busy_timeout_s=0.05)
    other = sqlite3.connect(tmp_path / "backendai.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"backendai\.db"):
        await add_user(database, "ann")
    other.execute("ROLLBACK")
    other.close()
    await add_user(database, "ann")
    assert await names(database) == ["ann"]
    await database.close()


async def test_a_writer_that_never_ends_makes_the_others_unavailable(url: str) -> None:
    database = await Database.open(url, busy_timeout_s=0.05)
    async with database.write():
        with pytest.raises(Unavailable, match="too busy"):
            await add_user(database, "ann")
    await add_user(database, "ann")
    await database.close()


async def test_a_path_that_cannot_be_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        await Database.open(f"sqlite+aiosqlite:///{tmp_path}/file/backendai.db")


async def test_a_file_of_another_kind_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are not the rows that you are looking for\n" * 100)
    with pytest.raises(Unavailable, match=r"notes\.txt"):
        await Database.open(f"sqlite+aiosqlite:///{path}")


async def test_a_wrong_statement_is_not_taken_for_an_outage(database: Database) -> None:
    with pytest.raises(sa.exc.OperationalError):
        async with database.read() as conn:
            await conn.execute(sa.text("SELECT * FROM no_such_table"))


@pytest.mark.parametrize(
    "url", ["postgres://u:hush@h/d", "mysql://u:hush@h/d", "sqlite:///x?p=hush", "hush"]
)
def test_another_kind_of_database_is_refused_by_the_name_of_the_setting(url: str) -> None:
    with pytest.raises(TraitError, match=r"BackendAI\.database_url: must begin with") as refused:
        BackendAI(database_url=url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://u:hush@h:port/d", "postgresql+psycopg://"])
async def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(BackendError) as refused:
        await Database.open(BackendAI(database_url=url).database_url)
    assert "database_url" in str(refused.value)
    assert "hush" not in str(refused.value)


def test_psycopg_is_loaded_only_for_postgresql() -> None:
    program = "import sys, backendai_jupyter.store.migrate; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_message_never_shows_the_password() -> None:
    url = sa.make_url("postgresql+psycopg://ann:hush@db.example/backendai?password=hush")
    assert "hush" not in name_of(url)
    by_service = sa.make_url("postgresql+psycopg:///?service=prod&passfile=/etc/pgpass")
    assert name_of(by_service) == "postgresql+psycopg:///?service=prod"
    assert name_of(url) == "postgresql+psycopg://ann:***@db.example/backendai"
