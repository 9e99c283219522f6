"""Folders that come while kernels live: those that show all folders show them too."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.mounts import mount_of
from backendai_jupyter.domain.records import ComputeSession, User, VFolder, Viewer
from backendai_jupyter.errors import Conflict
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.vfolders import VFolderStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import add_user


@pytest.fixture
def folders(database: Database) -> VFolderStore:
    return VFolderStore(database)


@pytest.fixture
def me(owner: User) -> Viewer:
    return Viewer(owner.id)


async def make(folders: VFolderStore, viewer: Viewer, name: str, id: str) -> VFolder:
    return await folders.create(viewer.user_id, name, id=id, host="local", path=f"/v/{id}", now=1)


async def shown(sessions: SessionStore, session: ComputeSession, me: Viewer) -> list[str]:
    return [m.vfolder_id for m in (await sessions.get(session.id, me)).main.mounts]


async def test_a_new_folder_comes_to_kernels_that_show_all_and_to_no_other(
    folders: VFolderStore,
    sessions: SessionStore,
    make_session: MakeSession,
    database: Database,
    me: Viewer,
) -> None:
    first = mount_of(await make(folders, me, "data", "1"))
    all_of_them = await make_session(mounts=(first,), shows_all=True)
    chosen = await make_session(mounts=(first,))
    ended = await make_session(mounts=(first,), shows_all=True)
    await sessions.terminate(ended.id, me, reason="", by="x", now=2.0)
    added = await make(folders, me, "more", "2")
    await make(folders, Viewer(await add_user(database, "stranger")), "theirs", "3")
    assert await shown(sessions, all_of_them, me) == ["1", "2"]
    assert await shown(sessions, chosen, me) == ["1"]
    assert await shown(sessions, ended, me) == ["1"]
    assert (await sessions.get(all_of_them.id, me)).main.mounts[1] == mount_of(added)


async def test_a_folder_that_came_later_is_in_use_like_any_other(
    folders: VFolderStore, make_session: MakeSession, me: Viewer
) -> None:
    await make_session(mounts=(), shows_all=True)
    await make(folders, me, "more", "2")
    with pytest.raises(Conflict, match="running kernel uses"):
        await folders.change("2", me, name="renamed")


async def test_a_restored_folder_comes_back_and_takes_no_place_that_is_taken(
    folders: VFolderStore, sessions: SessionStore, make_session: MakeSession, me: Viewer
) -> None:
    old = await make(folders, me, "data", "1")
    before = await make_session(mounts=(mount_of(old),), shows_all=True)
    await folders.trash("1", me, now=2.0)
    after = await make_session(mounts=(), shows_all=True)
    await make(folders, me, "data", "2")  # while a kernel still shows the old one there
    assert await shown(sessions, before, me) == ["1"]
    assert await shown(sessions, after, me) == ["2"]
    await folders.restore("1", me, name="old data")
    assert await shown(sessions, before, me) == ["1", "1"]
    assert await shown(sessions, after, me) == ["2", "1"]
