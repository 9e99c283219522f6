"""Virtual folders: who owns which directory under which name."""

from __future__ import annotations

import unicodedata
from typing import Any

import sqlalchemy as sa

from backendai_jupyter.domain.records import VFolder, Viewer
from backendai_jupyter.domain.vfolders import check_name
from backendai_jupyter.errors import Conflict, NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.rows import visible_to
from backendai_jupyter.store.tables import vfolders

_READY = "ready"


class VFolderStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, owner: str, name: str, *, host: str, path: str, id: str, now: float
    ) -> VFolder:
        """Write a folder whose directory exists at ``path``.

        Raises ``InvalidInput`` for a name that no folder may have and ``Conflict`` for one
        that the owner has already.
        """
        folder = VFolder(id, owner, check_name(name), host, path, now)
        values = {
            "id": folder.id,
            "owner": folder.owner,
            "name": folder.name,
            "host": folder.host,
            "path": folder.path,
            "status": _READY,
            "created_at": folder.created_at,
        }
        async with self._database.write() as conn:
            if not await insert_if_absent(conn, vfolders, values):
                raise Conflict(f"There is a folder {folder.name!r} already; choose another name.")
        return folder

    async def rename(self, folder_id: str, name: str, viewer: Viewer) -> None:
        """Give one of the viewer's own folders another name.

        Raises ``InvalidInput`` or ``Conflict`` as ``create`` does, ``NotFound`` for a folder
        that is not the viewer's.
        """
        own = (vfolders.c.owner == viewer.user_id) & (vfolders.c.status == _READY)
        change = sa.update(vfolders).where(own, vfolders.c.id == folder_id)
        taken = sa.select(vfolders.c.id).where(own, vfolders.c.name == check_name(name))
        async with self._database.write() as conn:
            if await conn.scalar(taken) not in {None, folder_id}:
                raise Conflict(f"There is a folder {name!r} already; choose another name.")
            renamed = await conn.execute(change.values(name=check_name(name)))
            if renamed.rowcount != 1:
                raise NotFound(f"There is no folder {folder_id}.")

    async def list(self, viewer: Viewer) -> tuple[VFolder, ...]:
        """Return what the viewer may see, by name."""
        query = (
            _ready().where(visible_to(viewer, vfolders)).order_by(vfolders.c.name, vfolders.c.id)
        )
        async with self._database.read() as conn:
            return tuple(_to_vfolder(row) for row in await conn.execute(query))

    async def get(self, name: str, viewer: Viewer) -> VFolder:
        """Return the viewer's own folder of this name: another owner may use it too."""
        normal = unicodedata.normalize("NFC", name)
        query = _ready().where(vfolders.c.owner == viewer.user_id, vfolders.c.name == normal)
        async with self._database.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"There is no folder {name!r}.")
        return _to_vfolder(row)


def _ready() -> sa.Select[Any]:
    return sa.select(vfolders).where(vfolders.c.status == _READY)


def _to_vfolder(row: Any) -> VFolder:
    return VFolder(row.id, row.owner, row.name, row.host, row.path, row.created_at)
