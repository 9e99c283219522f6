"""A migrated database for each test that asks for one, its owner, and systems on top of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import User
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.users import UserStore
from tests.unit.one_machine import OneMachine, Start


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(migrated: Path, tmp_path: Path) -> str:
    path = tmp_path / "backendai.db"
    shutil.copy(migrated, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url)
    yield database
    await database.close()


@pytest.fixture
async def owner(database: Database) -> User:
    return await UserStore(database).ensure_owner(now=1.0)


@pytest.fixture
async def start(tmp_path: Path, url: str) -> AsyncIterator[Start]:
    """Start whole systems in this process, which end with the test."""
    machines: list[OneMachine] = []

    async def make(**how: object) -> OneMachine:
        machine = OneMachine(tmp_path, url, **how)  # type: ignore[arg-type]
        machines.append(machine)
        await machine.start()
        return machine

    yield make
    for machine in machines:
        await machine.kill()
