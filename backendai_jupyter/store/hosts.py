"""Vfolder hosts as they were when they were first used: the ids in their marker files."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.tables import vfolder_hosts


class VFolderHostStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def markers(self) -> dict[str, str]:
        """Return the id of each host that was ever used, by name."""
        async with self._database.read() as conn:
            rows = await conn.execute(sa.select(vfolder_hosts))
            return {row.name: row.marker for row in rows}

    @retried
    async def remember(self, markers: Mapping[str, str]) -> None:
        """Take note of hosts that are used for the first time; the others stay as they are."""
        async with self._database.write() as conn:
            for name, marker in markers.items():
                await insert_if_absent(conn, vfolder_hosts, {"name": name, "marker": marker})
