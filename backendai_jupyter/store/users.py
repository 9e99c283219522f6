"""Users and their keypairs."""

from __future__ import annotations

import base64
import secrets
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.records import Keypair, User
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.tables import keypairs, users

OWNER = "owner"  # the one user of a server that serves one person


class UserStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    async def ensure_owner(self, *, now: float) -> User:
        """Return the local owner, made with a keypair at the first start.

        Of several processes that start at once, one makes it and all return the same.
        """
        by_name = users.c.name == OWNER
        async with self._database.read() as conn:
            if (owner := await _one_user(conn, by_name)) is not None:
                return owner
        async with self._database.write() as conn:
            made = User(str(uuid.uuid4()), OWNER)
            values = {"id": made.id, "name": made.name, "created_at": now}
            if await insert_if_absent(conn, users, values):
                await conn.execute(sa.insert(keypairs).values(**_new_keypair(made.id, now)))
                return made
            return _found(await _one_user(conn, by_name), f"user {OWNER}")

    async def get(self, user_id: str) -> User:
        async with self._database.read() as conn:
            return _found(await _one_user(conn, users.c.id == user_id), f"user {user_id}")

    async def keypair(self, access_key: str) -> Keypair:
        """Return the keypair, active or not."""
        return await self._keypair(keypairs.c.access_key == access_key, f"keypair {access_key}")

    async def keypair_of(self, user_id: str) -> Keypair:
        """Return the user's oldest keypair that is active."""
        its = sa.and_(keypairs.c.user_id == user_id, keypairs.c.is_active)
        return await self._keypair(its, f"active keypair of user {user_id}")

    async def _keypair(self, condition: sa.ColumnElement[bool], what: str) -> Keypair:
        query = sa.select(keypairs).where(condition).order_by(keypairs.c.created_at)
        async with self._database.read() as conn:
            row = (await conn.execute(query.limit(1))).one_or_none()
        if row is None:
            raise NotFound(f"There is no {what}.")
        return Keypair(row.access_key, row.secret_key, row.user_id, row.is_active)


async def _one_user(conn: AsyncConnection, condition: sa.ColumnElement[bool]) -> User | None:
    row = (await conn.execute(sa.select(users).where(condition))).one_or_none()
    return None if row is None else User(row.id, row.name)


def _found(user: User | None, what: str) -> User:
    if user is None:
        raise NotFound(f"There is no {what}.")
    return user


def _new_keypair(user_id: str, now: float) -> dict[str, Any]:
    return {
        "access_key": "AKIA" + base64.b32encode(secrets.token_bytes(10)).decode(),
        "secret_key": secrets.token_urlsafe(30),
        "user_id": user_id,
        "is_active": True,
        "created_at": now,
    }
