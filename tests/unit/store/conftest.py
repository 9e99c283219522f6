"""What the tests of the store begin with: an agent, and sessions of the owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from backendai_jupyter.domain.records import ComputeSession, User
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from tests.postgres import CleanDatabase
from tests.unit.store.samples import new_session, report

MakeSession = Callable[..., Awaitable[ComputeSession]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database of each kind: the store's tests are its contract with both."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    clean: CleanDatabase = request.getfixturevalue("clean_postgres")
    return clean()


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
