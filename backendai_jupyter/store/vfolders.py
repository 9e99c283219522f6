"""Virtual folders: who owns which directory under which name, and which are on their way out."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.mounts import mount_of
from backendai_jupyter.domain.records import SYSTEM, VFolder, Viewer
from backendai_jupyter.domain.states import ASSIGNED, Status
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus, check_name
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import Conflict, InDoubt, LostRace, NotFound, Unavailable
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.rows import mounts_text, to_mounts, visible_to
from backendai_jupyter.store.tables import kernels, sessions, vfolders

READY = frozenset({VFolderStatus.READY})


class VFolderStore:
    """Reads and guarded writes; each method is one transaction.

    A folder that a living kernel shows cannot be renamed, protected or purged: the kernel's
    rows are looked at in the transaction that would do it, and ``lock_mounted`` is its
    counterpart where those rows are written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        owner: str,
        name: str,
        *,
        host: str,
        path: str,
        id: str,
        now: float,
        permission: Permission = Permission.READ_WRITE,
    ) -> VFolder:
        """Write a folder whose directory exists at ``path``.

        Raises ``InvalidInput`` for a name that no folder may have and ``Conflict`` for one
        that the owner has already.
        """
        folder = VFolder(id, owner, check_name(name), host, path, now, permission)
        try:
            await self._insert(folder)
        except InDoubt as doubt:
            await self._insert_again(folder, doubt)
        return folder

    @retried
    async def _insert(self, folder: VFolder) -> None:
        values = {column.name: getattr(folder, column.name) for column in vfolders.c}
        async with self._database.write() as conn:
            if not await insert_if_absent(conn, vfolders, values):
                raise _taken(folder.name)
            await _show(conn, folder)

    async def _insert_again(self, folder: VFolder, doubt: InDoubt) -> None:
        """Write a folder whose first commit was not confirmed, unless it is there after all."""
        try:
            try:
                await self._insert(folder)
            except Conflict:
                await self.by_id(folder.id, SYSTEM)
        except NotFound:
            raise _taken(folder.name) from None  # by another of this name
        except Unavailable:
            raise doubt from None

    async def list(
        self, viewer: Viewer, *, statuses: Collection[VFolderStatus] = READY
    ) -> tuple[VFolder, ...]:
        """Return what the viewer may see, by name."""
        query = sa.select(vfolders).where(
            visible_to(viewer, vfolders), vfolders.c.status.in_(sorted(statuses))
        )
        async with self._database.read() as conn:
            rows = await conn.execute(query.order_by(vfolders.c.name, vfolders.c.id))
            return tuple(_to_vfolder(row) for row in rows)

    async def get(self, name: str, viewer: Viewer) -> VFolder:
        """Return the viewer's own folder of this name: another owner may use it too."""
        normal = unicodedata.normalize("NFC", name)
        return await self._one(
            f"There is no folder {name!r}.",
            vfolders.c.owner == viewer.user_id,
            vfolders.c.name == normal,
            vfolders.c.status == VFolderStatus.READY,
        )

    async def by_id(self, folder_id: str, viewer: Viewer) -> VFolder:
        """Return a folder that the viewer may see, in whatever status it is."""
        return await self._one(
            f"There is no folder {folder_id!r}.",
            visible_to(viewer, vfolders),
            vfolders.c.id == folder_id,
        )

    @retried
    async def change(
        self,
        folder_id: str,
        viewer: Viewer,
        *,
        name: str | None = None,
        permission: Permission | None = None,
    ) -> VFolder:
        """Give one of the viewer's own folders another name or permission.

        Raises ``InvalidInput`` or ``Conflict`` as ``create`` does, ``Conflict`` while a
        kernel shows it, ``NotFound`` for a folder that is not the viewer's.
        """
        values: dict[str, Any] = {}
        if name is not None:
            values["name"] = check_name(name)
        if permission is not None:
            values["permission"] = permission
        async with self._database.write() as conn:
            folder = await _lock(conn, folder_id, viewer, VFolderStatus.READY)
            changed = {key: new for key, new in values.items() if getattr(folder, key) != new}
            if not changed:
                return folder
            if await _is_mounted(conn, folder_id):
                raise Conflict(
                    f"A running kernel uses the folder {folder.name!r}; shut it down first."
                )
            try:
                await conn.execute(_update(folder_id).values(**changed))
            except sa.exc.IntegrityError:  # a name is all that it can collide with
                raise _taken(changed["name"]) from None
            return await _lock(conn, folder_id, viewer, VFolderStatus.READY)

    @retried
    async def trash(self, folder_id: str, viewer: Viewer, *, now: float) -> None:
        """Move a folder to the trash; kernels that show it go on doing so."""
        async with self._database.write() as conn:
            await _lock(conn, folder_id, viewer, VFolderStatus.READY)
            change = _update(folder_id).values(status=VFolderStatus.DELETE_PENDING, trashed_at=now)
            await conn.execute(change)

    @retried
    async def restore(self, folder_id: str, viewer: Viewer, *, name: str | None) -> VFolder:
        """Take a folder out of the trash, under another name if one is given.

        Raises ``Conflict`` if the name is in use again.
        """
        async with self._database.write() as conn:
            folder = await _lock(conn, folder_id, viewer, VFolderStatus.DELETE_PENDING)
            back_as = folder.name if name is None else check_name(name)
            change = _update(folder_id).values(
                status=VFolderStatus.READY, trashed_at=None, name=back_as
            )
            try:
                await conn.execute(change)
            except sa.exc.IntegrityError:
                raise Conflict(
                    f"There is a folder {back_as!r} already; restore it under another name."
                ) from None
            restored = await _lock(conn, folder_id, viewer, VFolderStatus.READY)
            await _show(conn, restored)
        return restored

    @retried
    async def begin_purge(self, folder_id: str, viewer: Viewer) -> VFolder:
        """Give a folder of the trash up for good, unless a kernel still shows it."""
        async with self._database.write() as conn:
            folder = await _lock(conn, folder_id, viewer, VFolderStatus.DELETE_PENDING)
            if await _is_mounted(conn, folder_id):
                raise Conflict(
                    f"A running kernel uses the folder {folder.name!r}; "
                    "shut it down before the folder is purged."
                )
            await conn.execute(_update(folder_id).values(status=VFolderStatus.DELETE_ONGOING))
        return folder

    @retried
    async def end_purge(self, folder_id: str) -> None:
        """Take note that nothing is left of a folder; doing so twice is harmless."""
        ongoing = vfolders.c.status == VFolderStatus.DELETE_ONGOING
        change = _update(folder_id).where(ongoing).values(status=VFolderStatus.DELETE_COMPLETE)
        async with self._database.write() as conn:
            await conn.execute(change)

    async def _one(self, message: str, *conditions: sa.ColumnElement[bool]) -> VFolder:
        async with self._database.read() as conn:
            row = (await conn.execute(sa.select(vfolders).where(*conditions))).one_or_none()
        if row is None:
            raise NotFound(message)
        return _to_vfolder(row)


async def lock_mounted(conn: AsyncConnection, mounts: Collection[Mount]) -> None:
    """Keep the folders of ``mounts`` as they are while a kernel that shows them is written.

    Raises ``LostRace`` if one has just been deleted, renamed or protected.
    """
    wanted = [mount for mount in mounts if mount.vfolder_id]
    if not wanted:
        return
    query = sa.select(vfolders).where(
        vfolders.c.id.in_(sorted({mount.vfolder_id for mount in wanted})),
        vfolders.c.status == VFolderStatus.READY,
    )
    rows = await conn.execute(query.with_for_update(read=True))
    ready = {folder.id: folder for folder in map(_to_vfolder, rows)}
    for mount in wanted:
        folder = ready.get(mount.vfolder_id)
        if folder is None or folder.name != mount.vfolder_name:
            raise LostRace(f"The folder {mount.vfolder_name!r} has just gone; try again.")
        if folder.readonly and not mount.readonly:
            raise LostRace(f"The folder {folder.name!r} has just become read-only; try again.")


async def _lock(
    conn: AsyncConnection, folder_id: str, viewer: Viewer, status: VFolderStatus
) -> VFolder:
    """Return the viewer's folder, which stays as it is until the transaction's end."""
    query = sa.select(vfolders).where(visible_to(viewer, vfolders), vfolders.c.id == folder_id)
    row = (await conn.execute(query.with_for_update())).one_or_none()
    if row is None:
        raise NotFound(f"There is no folder {folder_id!r}.")
    folder = _to_vfolder(row)
    if folder.status is not status:
        raise Conflict(_WRONG[folder.status].format(folder.name))
    return folder


_WRONG = {
    VFolderStatus.READY: "The folder {!r} is not in the trash.",
    VFolderStatus.DELETE_PENDING: "The folder {!r} is in the trash; restore it first.",
    VFolderStatus.DELETE_ONGOING: "The folder {!r} is being purged.",
    VFolderStatus.DELETE_COMPLETE: "The folder {!r} has been purged.",
}


async def _is_mounted(conn: AsyncConnection, folder_id: str) -> bool:
    """Whether a kernel of a session that has not ended shows the folder."""
    query = sa.select(kernels.c.mounts).join_from(kernels, sessions)
    rows = await conn.execute(query.where(sessions.c.ended_at.is_(None)))
    return any(m.vfolder_id == folder_id for text in rows.scalars() for m in to_mounts(text))


async def _show(conn: AsyncConnection, folder: VFolder) -> None:
    """Let the owner's living kernels that show all folders show this one too.

    Not where another folder has its place, such as one of the same name that is in the trash.
    """
    query = sa.select(kernels.c.id, kernels.c.mounts).where(
        kernels.c.owner == folder.owner,
        kernels.c.shows_all,
        kernels.c.status.in_(sorted(ASSIGNED | {Status.PENDING})),
    )
    query = query.order_by(kernels.c.id)  # the order in which they are locked
    added = mount_of(folder)
    for row in (await conn.execute(query.with_for_update())).all():
        mounts = to_mounts(row.mounts)
        if any(mount.target == added.target for mount in mounts):
            continue
        change = sa.update(kernels).where(kernels.c.id == row.id)
        await conn.execute(change.values(mounts=mounts_text((*mounts, added))))


def _update(folder_id: str) -> sa.Update:
    return sa.update(vfolders).where(vfolders.c.id == folder_id)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a folder {name!r} already; choose another name.")


def _to_vfolder(row: Any) -> VFolder:
    return VFolder(
        id=row.id,
        owner=row.owner,
        name=row.name,
        host=row.host,
        path=row.path,
        created_at=row.created_at,
        permission=Permission(row.permission),
        status=VFolderStatus(row.status),
        trashed_at=row.trashed_at,
    )
