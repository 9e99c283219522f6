"""What a PostgreSQL does that a file does not: it goes away, hangs, is full, changes its mind."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from backendai_jupyter.domain.records import SYSTEM, ComputeSession, User
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import Conflict, GaveWay, InDoubt, InvalidInput, Unavailable
from backendai_jupyter.store import postgres as dialect
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.tables import users
from backendai_jupyter.store.users import UserStore
from backendai_jupyter.store.vfolders import VFolderStore
from tests.helpers import eventually
from tests.integration.database_proxy import Loss, ProxyThatLosesCommits
from tests.postgres import CleanDatabase, PrivatePostgres, running
from tests.unit.store.samples import add_user, new_session

MAX_CONNECTIONS = 12


@pytest.fixture(scope="module")
def own() -> Iterator[PrivatePostgres]:
    """A server that a test may harm; it speaks TLS only."""
    with running(f"max_connections={MAX_CONNECTIONS}", tls=True) as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that hangs be given up soon."""
    monkeypatch.setattr(dialect, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setitem(dialect._CONNECTION, "connect_timeout", "2")  # libpq takes no less


@pytest.fixture
async def database(clean_postgres: CleanDatabase) -> AsyncIterator[Database]:
    database = await Database.open(clean_postgres())
    yield database
    await database.close()


@pytest.fixture
async def owner(database: Database) -> User:
    return await UserStore(database).ensure_owner(now=1.0)


async def one(database: Database) -> int:
    async with database.read() as conn:
        found: int = (await conn.execute(sa.text("SELECT 1"))).scalar_one()
        return found


async def write(database: Database) -> None:
    async with database.write() as conn:
        await conn.execute(sa.text("SELECT 1"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_server_that_comes_back_is_used_again(
    own: PrivatePostgres, how: signal.Signals
) -> None:
    database = await Database.open(own.url)
    await asyncio.gather(*(one(database) for _ in range(5)), write(database))
    await own.stop(how)
    for use in (one, write):
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{own.port}/postgres") as refused:
            await use(database)
        assert own.password not in str(refused.value)
    await own.start()
    assert await asyncio.gather(*(one(database) for _ in range(5))) == [1] * 5
    await write(database)
    await database.close()


async def test_a_server_that_ends_in_the_middle_of_a_transaction_is_unavailable(
    own: PrivatePostgres,
) -> None:
    database = await Database.open(own.url)
    with pytest.raises(Unavailable, match="cannot be used now"):
        async with database.write() as conn:
            await conn.execute(sa.text("CREATE TABLE t (x INTEGER)"))
            await own.stop(signal.SIGKILL)
            await conn.execute(sa.text("SELECT 1"))
    await own.start()
    async with database.read() as conn:
        assert not await conn.run_sync(lambda sync: sa.inspect(sync).has_table("t"))
    await database.close()


async def test_a_server_that_hangs_is_given_up_and_holds_up_nothing_else(
    own: PrivatePostgres, quick: None
) -> None:
    database = await Database.open(own.url)
    await asyncio.gather(one(database), write(database))
    own.freeze()
    try:
        started = time.monotonic()
        uses = asyncio.gather(one(database), write(database), return_exceptions=True)
        gaps = []
        while not uses.done():
            before = time.monotonic()
            await asyncio.wait([uses], timeout=0.02)
            gaps.append(time.monotonic() - before)
        for problem in await uses:
            assert isinstance(problem, Unavailable)
        assert time.monotonic() - started < 10
        assert max(gaps) < 1
    finally:
        own.thaw()
    assert await one(database) == 1
    await write(database)
    await database.close()


async def test_a_server_that_hangs_in_a_query_is_given_up(
    own: PrivatePostgres, quick: None
) -> None:
    database = await Database.open(own.url)
    try:
        with pytest.raises(Unavailable, match="no answer within"):
            async with database.write() as conn:
                await conn.execute(sa.text("SELECT 1"))
                own.freeze()
                await conn.execute(sa.text("SELECT 1"))
    finally:
        own.thaw()
    await write(database)
    await database.close()


async def test_one_connection_too_many_is_refused_in_words(own: PrivatePostgres) -> None:
    others = [await psycopg.AsyncConnection.connect(own.url) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(Unavailable, match="too many clients"):
        await Database.open(own.url)
    for other in others:
        await other.close()
    await (await Database.open(own.url)).close()


async def test_a_database_takes_no_more_connections_than_its_pool(own: PrivatePostgres) -> None:
    database = await Database.open(own.url)
    await asyncio.gather(*(use(database) for use in (one, write) for _ in range(30)))
    async with database.read() as conn:
        ours = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        assert 2 <= (await conn.scalar(ours, {"name": "backendai_jupyter"}) or 0) <= 10
    await database.close()


async def test_certificates_are_verified(own: PrivatePostgres, tmp_path: Path) -> None:
    assert own.certificates is not None
    authority = own.certificates.ca.read_bytes()
    (tmp_path / "ca.pem").write_bytes(authority)
    verified = f"{own.url}?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
    database = await Database.open(verified)
    async with database.read() as conn:
        query = sa.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert await conn.scalar(query)
    await database.close()
    for wrong in ("sslmode=disable", "sslmode=verify-full&sslrootcert=/dev/null"):
        with pytest.raises(Unavailable, match=r"SSL|certificate|encryption"):
            await Database.open(f"{own.url}?{wrong}")


async def test_a_password_may_come_from_a_file(
    own: PrivatePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{own.port}:*:*:{own.password}\n")
    passfile.chmod(0o600)
    without = own.url.replace(f":{own.password}", "")
    with pytest.raises(Unavailable, match="password"):
        await Database.open(without)
    await (await Database.open(f"{without}?passfile={passfile}")).close()
    services = tmp_path / "services.conf"
    services.write_text(
        f"[ours]\nhost=127.0.0.1\nport={own.port}\nuser=backendai\ndbname=postgres\n"
        f"password={own.password}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    await (await Database.open("postgresql:///?service=ours")).close()


async def test_a_wrong_password_is_refused_and_not_shown(own: PrivatePostgres) -> None:
    with pytest.raises(Unavailable, match="authentication failed") as refused:
        await Database.open(own.url.replace(own.password, "hush-hush"))
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize("more", ["?no_such_option=1", "?connect_timeout=soon"])
async def test_a_url_that_libpq_does_not_take_is_named(own: PrivatePostgres, more: str) -> None:
    with pytest.raises((InvalidInput, Unavailable)) as refused:
        await Database.open(own.url + more)
    assert "database_url" in str(refused.value)
    assert own.password not in str(refused.value)


async def test_a_read_connection_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="read-only"):
        async with database.read() as conn:
            await conn.execute(sa.delete(users))


async def test_a_lock_held_too_long_elsewhere_is_unavailable_by_name(
    database: Database, monkeypatch: pytest.MonkeyPatch, clean_postgres: CleanDatabase
) -> None:
    await add_user(database, "ann")
    monkeypatch.setitem(dialect._SESSION, "lock_timeout", "50ms")
    impatient = await Database.open(clean_postgres())
    await add_user(database, "ann")
    change = sa.update(users).values(created_at=2.0)
    async with database.write() as conn:
        await conn.execute(change)
        with pytest.raises(Unavailable, match="too busy now"):
            async with impatient.write() as other:
                await other.execute(change)
    await impatient.close()


async def test_a_transaction_that_was_left_open_too_long_is_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch, clean_postgres: CleanDatabase
) -> None:
    """As that of a program which was stopped in the middle of it, and must not hold its locks."""
    monkeypatch.setitem(dialect._SESSION, "idle_in_transaction_session_timeout", "50ms")
    stopped = await Database.open(clean_postgres())

    async def is_undone() -> bool:
        async with database.read() as conn:
            query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            return not await conn.scalar(sa.text(query))

    with pytest.raises(Unavailable, match="cannot be used now"):
        async with stopped.write() as conn:
            await conn.execute(sa.text("SELECT 1"))
            await eventually(is_undone)
            await conn.execute(sa.text("SELECT 1"))
    await write(stopped)
    await stopped.close()


async def test_what_could_not_be_serialized_gave_way(database: Database) -> None:
    with pytest.raises(GaveWay, match="too many changes at once"):
        async with database.write() as conn:
            raised = "RAISE EXCEPTION 'no' USING ERRCODE = '40001'"
            await conn.execute(sa.text(f"DO $$ BEGIN {raised}; END $$"))


async def test_a_text_with_a_zero_byte_is_kept_without_it(database: Database) -> None:
    await add_user(database, "a\0b")
    async with database.read() as conn:
        assert await conn.scalar(sa.select(users.c.name)) == "a\N{REPLACEMENT CHARACTER}b"


async def test_of_two_that_wait_for_each_other_the_one_that_gave_way_tries_again(
    database: Database,
) -> None:
    for name in ("ann", "bob"):
        await add_user(database, name)
    met = asyncio.Barrier(2)

    async def touch(order: list[str]) -> None:
        tries = 0

        @retried
        async def once() -> None:
            nonlocal tries
            tries += 1
            async with database.write() as conn:
                for name in order:
                    change = sa.update(users).where(users.c.name == name)
                    await conn.execute(change.values(created_at=users.c.created_at + 1))
                    if tries == 1 and name == order[0]:
                        await met.wait()

        await once()
        all_tries.append(tries)

    all_tries: list[int] = []
    await asyncio.gather(touch(["ann", "bob"]), touch(["bob", "ann"]))
    assert sorted(all_tries) == [1, 2]
    async with database.read() as conn:
        assert list((await conn.execute(sa.select(users.c.created_at))).scalars()) == [3.0, 3.0]


async def test_what_gives_way_for_ever_is_told() -> None:
    tries = 0

    @retried
    async def unlucky() -> None:
        nonlocal tries
        tries += 1
        raise GaveWay("again")

    with pytest.raises(GaveWay):
        await unlucky()
    assert tries == 5


class Doubtful:
    """Stores that reach their database by a way on which commits get lost."""

    def __init__(self, proxy: ProxyThatLosesCommits, database: Database, owner: User) -> None:
        self.proxy = proxy
        self.sessions = SessionStore(database)
        self.folders = VFolderStore(database)
        self.owner = owner

    async def create(self, **fields: object) -> ComputeSession:
        return await self.sessions.create(new_session(owner=self.owner.id, **fields), now=1.0)

    async def all(self) -> list[str]:
        return [session.id for session in await self.sessions.list(SYSTEM)]


@pytest.fixture
async def doubtful(
    postgres: PrivatePostgres, clean_postgres: CleanDatabase
) -> AsyncIterator[Doubtful]:
    url = clean_postgres()
    async with ProxyThatLosesCommits.before(postgres.port) as proxy:
        database = await Database.open(url.replace(f":{postgres.port}", f":{proxy.port}"))
        yield Doubtful(proxy, database, await UserStore(database).ensure_owner(now=1.0))
        await database.close()


@pytest.mark.parametrize("loss", Loss)
async def test_what_has_an_id_is_made_once_though_its_commit_is_lost(
    doubtful: Doubtful, loss: Loss
) -> None:
    doubtful.proxy.loses = loss
    session = await doubtful.create()
    assert await doubtful.all() == [session.id]
    assert len(await doubtful.sessions.history(session.id, SYSTEM)) == 1
    doubtful.proxy.loses = loss
    owner = doubtful.owner.id
    await doubtful.folders.create(owner, "data", host="local", path="/v", id="1", now=1.0)
    doubtful.proxy.loses = loss
    with pytest.raises(Conflict, match="'data'"):
        await doubtful.folders.create(owner, "data", host="local", path="/w", id="2", now=1.0)
    doubtful.proxy.loses = None
    assert [folder.id for folder in await doubtful.folders.list(SYSTEM)] == ["1"]


@pytest.mark.parametrize("loss", Loss)
async def test_a_change_whose_commit_is_lost_may_have_been_made_and_that_is_said(
    doubtful: Doubtful, loss: Loss
) -> None:
    session = await doubtful.create()
    doubtful.proxy.loses = loss
    with pytest.raises(InDoubt, match="may have been made or not"):
        await doubtful.sessions.move(session.main.id, Status.CANCELLED, reason="", by="x", now=2.0)
    after = await doubtful.sessions.get(session.id, SYSTEM)
    was_made = loss is Loss.OF_ITS_ANSWER
    assert after.status is (Status.CANCELLED if was_made else Status.PENDING)


async def test_a_start_that_cannot_be_made_sure_of_is_in_doubt(doubtful: Doubtful) -> None:
    doubtful.proxy.refuses = True
    doubtful.proxy.loses = Loss.OF_ITS_ANSWER
    with pytest.raises(InDoubt):
        await doubtful.create()
