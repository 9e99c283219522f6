"""This machine's database, as commands open it that find no server."""

from __future__ import annotations

import time
from pathlib import Path

from backendai_jupyter.config import BackendAI
from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import make_ready
from backendai_jupyter.store.users import UserStore

_SQLITE = "sqlite+aiosqlite:///"


class LocalDatabase:
    """Opened when it is needed first."""

    def __init__(self, settings: BackendAI) -> None:
        self._url = settings.database_url
        self._database: Database | None = None

    def is_new(self) -> bool:
        """Whether nothing has ever run here; merely looking shall not make a database."""
        return self._url.startswith(_SQLITE) and not Path(self._url.removeprefix(_SQLITE)).exists()

    async def open(self) -> tuple[Database, Viewer]:
        """Return the database and its owner, on whose behalf commands act."""
        if self._database is None:
            await make_ready(self._url)
            self._database = await Database.open(self._url)
        owner = await UserStore(self._database).ensure_owner(now=time.time())
        return self._database, Viewer(owner.id)

    async def close(self) -> None:
        if self._database is not None:
            await self._database.close()
