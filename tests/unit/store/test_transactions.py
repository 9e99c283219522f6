"""Transactions on both databases: all or nothing, whatever becomes of whoever asked for one."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.tables import users
from tests.unit.store.samples import add_user


async def names(database: Database) -> list[str]:
    async with database.read() as conn:
        return list((await conn.execute(sa.select(users.c.name))).scalars())


async def test_an_error_undoes_the_whole_transaction(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.write() as conn:
            values = {"id": "1", "name": "ann", "created_at": 1.0}
            await conn.execute(sa.insert(users).values(**values))
            raise KeyError("later")
    assert await names(database) == []


async def test_a_cancelled_write_leaves_nothing_behind(database: Database) -> None:
    entered = asyncio.Event()

    async def write_and_hang() -> None:
        async with database.write() as conn:
            values = {"id": "1", "name": "ann", "created_at": 1.0}
            await conn.execute(sa.insert(users).values(**values))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_hang())
    await entered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await add_user(database, "bob")
    assert await names(database) == ["bob"]


async def test_writes_cancelled_at_any_point_leave_the_database_usable(database: Database) -> None:
    for turn in range(40):
        task = asyncio.create_task(add_user(database, f"user {turn}"))
        await asyncio.wait({task}, timeout=turn / 20_000)  # a little further each time
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await add_user(database, "last")
    assert "last" in await names(database)


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    async with database.write() as conn:
        values = {"id": "1", "name": "ann", "created_at": 1.0}
        await conn.execute(sa.insert(users).values(**values))
        assert await asyncio.wait_for(names(database), 5) == []
    assert await names(database) == ["ann"]


async def test_closing_twice_is_harmless(url: str) -> None:
    database = await Database.open(url)
    await database.close()
    await database.close()
