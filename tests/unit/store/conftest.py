"""A migrated database for each test, and the means to fill it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import ComputeSession, User
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from tests.unit.store.samples import new_session, report

MakeSession = Callable[..., Awaitable[ComputeSession]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def url(migrated: Path, tmp_path: Path) -> str:
    path = tmp_path / "backendai.db"
    shutil.copy(migrated, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url)
    yield database
    await database.close()


@pytest.fixture
async def owner(database: Database) -> User:
    return await UserStore(database).ensure_owner(now=1.0)


@pytest.fixture
def sessions(database: Database) -> SessionStore:
    return SessionStore(database)


@pytest.fixture
async def agents(database: Database) -> AgentStore:
    """One agent, ``a1``, with 4 cpu and 8 GiB."""
    store = AgentStore(database)
    await store.record(report("a1", cpu=4, mem=8 << 30), now=1.0)
    return store


@pytest.fixture
def make_session(sessions: SessionStore, owner: User) -> MakeSession:
    async def make(*, now: float = 10.0, **fields: object) -> ComputeSession:
        return await sessions.create(new_session(**{"owner": owner.id, **fields}), now=now)

    return make
