"""Virtual folders: names, the trash, and what a living kernel's row forbids."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from backendai_jupyter.domain.records import SYSTEM, User, VFolder, Viewer
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import Conflict, InvalidInput, LostRace, NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.vfolders import VFolderStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import add_user

MakeFolder = Callable[..., Awaitable[VFolder]]
Request = Callable[[VFolderStore, str, Viewer], Awaitable[object]]

IN_TRASH = frozenset({VFolderStatus.DELETE_PENDING})


@pytest.fixture
def folders(database: Database) -> VFolderStore:
    return VFolderStore(database)


@pytest.fixture
def me(owner: User) -> Viewer:
    return Viewer(owner.id)


@pytest.fixture
def make_folder(folders: VFolderStore, owner: User) -> MakeFolder:
    async def make(name: str = "data", *, owner_id: str = owner.id, id: str = "1") -> VFolder:
        return await folders.create(owner_id, name, id=id, host="local", path=f"/v/{id}", now=3.0)

    return make


def mount_of(folder: VFolder, *, readonly: bool = False) -> Mount:
    return Mount(
        source=folder.path,
        target=f"/home/work/{folder.name}",
        readonly=readonly,
        vfolder_id=folder.id,
        vfolder_name=folder.name,
        vfolder_host=folder.host,
    )


async def rename(store: VFolderStore, folder_id: str, viewer: Viewer) -> VFolder:
    return await store.change(folder_id, viewer, name="renamed")


async def protect(store: VFolderStore, folder_id: str, viewer: Viewer) -> VFolder:
    return await store.change(folder_id, viewer, permission=Permission.READ_ONLY)


async def trash(store: VFolderStore, folder_id: str, viewer: Viewer) -> None:
    await store.trash(folder_id, viewer, now=4.0)


async def restore(store: VFolderStore, folder_id: str, viewer: Viewer) -> VFolder:
    return await store.restore(folder_id, viewer, name=None)


async def purge(store: VFolderStore, folder_id: str, viewer: Viewer) -> VFolder:
    return await store.begin_purge(folder_id, viewer)


async def trash_and_purge(store: VFolderStore, folder_id: str, viewer: Viewer) -> None:
    await trash(store, folder_id, viewer)
    await purge(store, folder_id, viewer)


async def test_folders_belong_to_their_owner(
    folders: VFolderStore, make_folder: MakeFolder, database: Database, me: Viewer
) -> None:
    stranger = await add_user(database, "stranger")
    data = await make_folder()
    theirs = await make_folder(owner_id=stranger, id="2")
    more = await make_folder("a", owner_id=stranger, id="3")
    assert await folders.list(me) == (data,)
    assert await folders.list(Viewer(stranger)) == (more, theirs)
    assert await folders.list(SYSTEM) == (more, data, theirs)
    assert await folders.get("data", Viewer(stranger)) == theirs
    with pytest.raises(NotFound, match="'a'"):
        await folders.get("a", me)


async def test_a_name_is_the_same_however_it_is_composed(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    composed, decomposed = (
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "cafe\N{COMBINING ACUTE ACCENT}",
    )
    await make_folder(composed)
    with pytest.raises(Conflict, match=composed):
        await make_folder(decomposed, id="2")
    assert (await folders.get(decomposed, me)).id == "1"


@pytest.mark.parametrize("name", ["", "..", "a/b", "c:", ".bashrc", ".cwd", "x" * 129])
async def test_a_folder_cannot_have_a_name_that_is_no_name(
    folders: VFolderStore, make_folder: MakeFolder, name: str
) -> None:
    with pytest.raises(InvalidInput):
        await make_folder(name)
    assert await folders.list(SYSTEM) == ()


async def test_of_two_who_make_the_same_folder_one_wins(make_folder: MakeFolder) -> None:
    made = await asyncio.gather(*(make_folder(id=str(i)) for i in range(4)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in made) == ["Conflict"] * 3 + ["VFolder"]


async def test_a_folder_is_renamed_by_its_owner_to_a_free_name(
    folders: VFolderStore, make_folder: MakeFolder, database: Database, me: Viewer
) -> None:
    await make_folder()
    await make_folder("taken", id="2")
    assert (await folders.change("1", me, name="renamed")).name == "renamed"
    with pytest.raises(Conflict, match="taken"):
        await folders.change("1", me, name="taken")
    with pytest.raises(InvalidInput):
        await folders.change("1", me, name="a/b")
    with pytest.raises(NotFound):
        await folders.change("1", Viewer(await add_user(database, "stranger")), name="mine")
    assert [f.name for f in await folders.list(SYSTEM)] == ["renamed", "taken"]


async def test_a_change_to_what_is_already_so_is_none(
    folders: VFolderStore, make_folder: MakeFolder, make_session: MakeSession, me: Viewer
) -> None:
    folder = await make_folder()
    await make_session(mounts=(mount_of(folder),))
    same = await folders.change("1", me, name="data", permission=Permission.READ_WRITE)
    assert same == folder


async def test_the_permission_of_a_folder_is_kept(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    await make_folder()
    await protect(folders, "1", me)
    assert (await folders.get("data", me)).readonly


async def test_the_trash_frees_the_name_and_keeps_the_folder(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    await make_folder()
    await folders.trash("1", me, now=7.0)
    again = await make_folder(id="2")
    assert await folders.list(me) == (again,)
    (trashed,) = await folders.list(me, statuses=IN_TRASH)
    assert (trashed.id, trashed.name, trashed.trashed_at) == ("1", "data", 7.0)


async def test_a_restored_folder_is_as_it_was(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    folder = await make_folder()
    await trash(folders, "1", me)
    assert await restore(folders, "1", me) == folder
    assert await folders.list(me) == (folder,)


async def test_a_folder_whose_name_is_used_again_is_restored_under_another(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    await make_folder()
    await trash(folders, "1", me)
    await make_folder(id="2")
    with pytest.raises(Conflict, match="restore it under another name"):
        await restore(folders, "1", me)
    await folders.restore("1", me, name="old data")
    assert [(f.id, f.name) for f in await folders.list(me)] == [("2", "data"), ("1", "old data")]


async def test_a_purged_folder_is_gone_for_good(
    folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    await make_folder()
    await trash_and_purge(folders, "1", me)
    assert (await folders.by_id("1", me)).status is VFolderStatus.DELETE_ONGOING
    for _ in range(2):
        await folders.end_purge("1")
    assert (await folders.by_id("1", me)).status is VFolderStatus.DELETE_COMPLETE


@pytest.mark.parametrize(
    ("before", "request_", "reason"),
    [
        pytest.param((), restore, "not in the trash", id="restore what is there"),
        pytest.param((), purge, "not in the trash", id="purge what is there"),
        pytest.param((trash,), trash, "in the trash", id="trash twice"),
        pytest.param((trash,), rename, "in the trash", id="rename in the trash"),
        pytest.param((trash, purge), restore, "being purged", id="restore while purged"),
        pytest.param((trash, purge), purge, "being purged", id="purge twice"),
    ],
)
async def test_a_folder_in_another_status_refuses(
    folders: VFolderStore,
    make_folder: MakeFolder,
    me: Viewer,
    before: tuple[Request, ...],
    request_: Request,
    reason: str,
) -> None:
    await make_folder()
    for earlier in before:
        await earlier(folders, "1", me)
    with pytest.raises(Conflict, match=reason):
        await request_(folders, "1", me)


@pytest.mark.parametrize("request_", [trash, restore, purge, rename, protect])
async def test_the_folder_of_somebody_else_does_not_exist(
    folders: VFolderStore, make_folder: MakeFolder, database: Database, request_: Request
) -> None:
    await make_folder()
    with pytest.raises(NotFound):
        await request_(folders, "1", Viewer(await add_user(database, "stranger")))


@pytest.mark.parametrize("request_", [rename, protect, trash_and_purge])
async def test_a_folder_stays_as_it_is_until_the_kernel_that_shows_it_has_ended(
    folders: VFolderStore,
    make_folder: MakeFolder,
    make_session: MakeSession,
    sessions: SessionStore,
    me: Viewer,
    request_: Request,
) -> None:
    shown = await make_session(mounts=(mount_of(await make_folder()),))
    with pytest.raises(Conflict, match="running kernel uses the folder 'data'"):
        await request_(folders, "1", me)
    await sessions.terminate(shown.id, me, reason="", by="x", now=5.0)
    if request_ is trash_and_purge:  # it is in the trash by now
        request_ = purge
    await request_(folders, "1", me)


async def test_a_kernel_that_shows_another_folder_forbids_nothing(
    folders: VFolderStore, make_folder: MakeFolder, make_session: MakeSession, me: Viewer
) -> None:
    await make_session(mounts=(mount_of(await make_folder()),))
    await make_folder("other", id="2")
    await trash_and_purge(folders, "2", me)


@pytest.mark.parametrize("request_", [trash, trash_and_purge, rename, protect])
async def test_a_session_that_comes_after_the_change_has_lost_the_race(
    folders: VFolderStore,
    make_folder: MakeFolder,
    make_session: MakeSession,
    sessions: SessionStore,
    me: Viewer,
    request_: Request,
) -> None:
    mount = mount_of(await make_folder())
    await request_(folders, "1", me)
    with pytest.raises(LostRace, match="'data'"):
        await make_session(mounts=(mount,))
    assert await sessions.list(SYSTEM) == ()


async def test_a_read_only_mount_of_a_folder_that_became_read_only_is_right(
    folders: VFolderStore, make_folder: MakeFolder, make_session: MakeSession, me: Viewer
) -> None:
    mount = mount_of(await make_folder(), readonly=True)
    await protect(folders, "1", me)
    await make_session(mounts=(mount, mount))


async def test_of_a_session_and_a_purge_at_once_one_wins(
    url: str, folders: VFolderStore, make_folder: MakeFolder, make_session: MakeSession, me: Viewer
) -> None:
    elsewhere = await Database.open(url)
    for number in range(10):
        folder = await make_folder(id=str(number))
        outcomes = await asyncio.gather(
            make_session(mounts=(mount_of(folder),)),
            trash_and_purge(VFolderStore(elsewhere), folder.id, me),
            return_exceptions=True,
        )
        lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert len(lost) == 1, outcomes
    await elsewhere.close()


@pytest.mark.parametrize("request_", [trash, purge, restore])
async def test_of_two_managers_one_wins(
    url: str, folders: VFolderStore, make_folder: MakeFolder, me: Viewer, request_: Request
) -> None:
    await make_folder()
    if request_ is not trash:
        await trash(folders, "1", me)
    elsewhere = await Database.open(url)
    outcomes = await asyncio.gather(
        *(request_(store, "1", me) for store in (folders, VFolderStore(elsewhere))),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Conflict) for outcome in outcomes].count(True) == 1, outcomes
    await elsewhere.close()


async def test_of_two_managers_that_give_one_name_to_two_folders_one_wins(
    url: str, folders: VFolderStore, make_folder: MakeFolder, me: Viewer
) -> None:
    for number in ("1", "2"):
        await make_folder(number, id=number)
    elsewhere = await Database.open(url)
    outcomes = await asyncio.gather(
        rename(folders, "1", me), rename(VFolderStore(elsewhere), "2", me), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "VFolder"]
    await elsewhere.close()
