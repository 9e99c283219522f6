"""Folders between their rows and their hosts, and between the file browser and kernels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from backendai_jupyter.domain.options import MountOption
from backendai_jupyter.domain.records import User, VFolder, Viewer
from backendai_jupyter.domain.vfolders import Permission, VFolderStatus
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import Conflict, InvalidInput, NotFound, Unavailable
from backendai_jupyter.manager.vfolders import (
    VFolders,
    contents_path_of,
    kernel_path_of,
    workdir_of,
    workdir_of_host,
)
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.vfolders import VFolderStore

HOSTS = ("local", "nfs")
E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, VFolderHost]:
    hosts = {name: VFolderHost(name, tmp_path / name) for name in HOSTS}
    for host in hosts.values():
        host.prepare()
    return hosts


@pytest.fixture
def vfolders(database: Database, hosts: dict[str, VFolderHost]) -> VFolders:
    return VFolders(
        VFolderStore(database),
        hosts=hosts,
        default_host="local",
        owner_ids=(os.geteuid(), os.getegid()),
        now=lambda: 5.0,
    )


@pytest.fixture
def me(owner: User) -> Viewer:
    return Viewer(owner.id)


def directory_of(folder: VFolder) -> Path:
    return Path(folder.path)


def mount(folder: str, alias: str = "") -> Mount:
    return Mount(source=f"/v/{folder}", target=f"/home/work/{alias or folder}", vfolder_name=folder)


async def test_a_folder_is_made_on_the_host_that_was_asked_for(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    first, second = await vfolders.create("a", me), await vfolders.create("b", me, host="nfs")
    assert (first.host, second.host) == HOSTS
    assert directory_of(second) == hosts["nfs"].folder_path(me.user_id, second.id)
    assert directory_of(second).is_dir()


async def test_a_folder_on_an_unknown_host_is_refused_by_field(
    vfolders: VFolders, me: Viewer
) -> None:
    with pytest.raises(InvalidInput, match="known are local, nfs") as caught:
        await vfolders.create("a", me, host="tape")
    assert caught.value.field == "host"


async def test_a_folder_is_not_made_on_a_host_that_is_not_mounted(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    shutil.rmtree(hosts["nfs"].root)
    hosts["nfs"].root.mkdir()
    with pytest.raises(Unavailable, match="'nfs' is not mounted"):
        await vfolders.create("a", me, host="nfs")
    assert list(hosts["nfs"].root.iterdir()) == []


async def test_a_folder_that_is_refused_leaves_no_directory(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    folder = await vfolders.create("a", me)
    with pytest.raises(Conflict):
        await vfolders.create("a", me)
    assert list((hosts["local"].root / me.user_id).iterdir()) == [directory_of(folder)]


async def test_a_new_user_gets_one_folder_and_no_second_one_after_giving_it_up(
    vfolders: VFolders, me: Viewer
) -> None:
    for _ in range(2):
        await vfolders.ensure_first(me)
    assert [folder.name for folder in await vfolders.list(me)] == ["data"]
    await vfolders.trash("data", me)
    await vfolders.purge("data", me)
    await vfolders.ensure_first(me)
    assert await vfolders.list(me) == ()


async def test_hosts_say_how_full_they_are_unless_they_are_not_mounted(
    vfolders: VFolders, hosts: dict[str, VFolderHost]
) -> None:
    shutil.rmtree(hosts["nfs"].root / ".backendai")
    local, nfs = await vfolders.host_states()
    assert (local.name, local.is_default, nfs.name, nfs.is_default) == ("local", True, "nfs", False)
    assert local.space is not None
    assert nfs.space is None


async def test_all_folders_are_mounted_under_their_names(vfolders: VFolders, me: Viewer) -> None:
    folder = await vfolders.create("a", me)
    await vfolders.create("b", me, host="nfs", permission=Permission.READ_ONLY)
    await vfolders.create("c", me)
    await vfolders.trash("c", me)
    first, second = await vfolders.mounts(me, None)
    assert first == Mount(
        source=folder.path,
        target="/home/work/a",
        vfolder_id=folder.id,
        vfolder_name="a",
        vfolder_host="local",
    )
    assert (second.target, second.readonly, second.vfolder_host) == ("/home/work/b", True, "nfs")


async def test_a_folder_of_a_host_that_is_not_configured_any_more_is_mounted_only_if_asked_for(
    vfolders: VFolders, database: Database, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    await vfolders.create("a", me)
    await vfolders.create("b", me, host="nfs")
    del hosts["nfs"]
    assert [m.vfolder_name for m in await vfolders.mounts(me, None)] == ["a"]
    assert [m.vfolder_name for m in await vfolders.mounts(me, [MountOption("b")])] == ["b"]


async def test_a_folder_that_is_away_is_mounted_only_if_asked_for(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    await vfolders.create("a", me)
    await vfolders.create("b", me, host="nfs")
    hosts["nfs"].root.rename(hosts["nfs"].root.with_name("unmounted"))
    assert [m.vfolder_name for m in await vfolders.mounts(me, None)] == ["a"]
    assert [m.vfolder_name for m in await vfolders.mounts(me, [MountOption("b")])] == ["b"]


async def test_a_directory_of_this_machine_is_mounted_under_its_name_if_that_is_free(
    vfolders: VFolders, me: Viewer
) -> None:
    here = await vfolders.mount_of(Path("/somewhere/here"), me, beside=[])
    assert here == Mount(source="/somewhere/here", target="/home/work/here")
    again = await vfolders.mount_of(Path("/elsewhere/here"), me, beside=[here])
    assert again == Mount(source="/elsewhere/here", target="/home/work/.cwd")
    top = await vfolders.mount_of(Path("/"), me, beside=[])
    assert top == Mount(source="/", target="/home/work/.cwd")


async def test_a_directory_in_a_folder_is_mounted_as_that_folder(
    vfolders: VFolders, me: Viewer
) -> None:
    folder = await vfolders.create("a", me, permission=Permission.READ_ONLY)
    (expected,) = await vfolders.mounts(me, None)
    inside = directory_of(folder) / "deep"
    assert await vfolders.mount_of(inside, me, beside=[]) == expected
    taken = mount("b", "a")
    beside_it = await vfolders.mount_of(inside, me, beside=[taken])
    assert (beside_it.target, beside_it.readonly) == ("/home/work/.cwd", True)


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        pytest.param([], [], id="none"),
        pytest.param([MountOption("b")], ["b"], id="subset"),
        pytest.param([MountOption("b"), MountOption("b")], ["b"], id="twice the same"),
        pytest.param([MountOption("a", "x")], ["x"], id="alias"),
        pytest.param([MountOption("a", "b"), MountOption("b", "a")], ["b", "a"], id="swapped"),
        pytest.param(
            [MountOption("a"), MountOption("a", "x", readonly=True)], ["a", "x"], id="two"
        ),
    ],
)
async def test_only_what_is_wanted_is_mounted_where_it_is_wanted(
    vfolders: VFolders, me: Viewer, wanted: Sequence[MountOption], targets: list[str]
) -> None:
    for name in ("a", "b"):
        await vfolders.create(name, me)
    found = await vfolders.mounts(me, wanted)
    assert [m.target.removeprefix("/home/work/") for m in found] == targets
    assert [m.readonly for m in found] == [option.readonly for option in dict.fromkeys(wanted)]


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        pytest.param([MountOption("z")], "no folder named 'z'", id="unknown"),
        pytest.param([MountOption("a"), MountOption("b", "a")], "two folders", id="one place"),
        pytest.param([MountOption("a"), MountOption("a", readonly=True)], "two", id="two ways"),
    ],
)
async def test_mounts_that_cannot_be_are_refused_by_field(
    vfolders: VFolders, me: Viewer, wanted: Sequence[MountOption], problem: str
) -> None:
    for name in ("a", "b"):
        await vfolders.create(name, me)
    with pytest.raises(InvalidInput, match=problem) as caught:
        await vfolders.mounts(me, wanted)
    assert caught.value.field == "backendai.mounts"


async def test_the_permission_of_a_folder_is_stronger_than_the_wish(
    vfolders: VFolders, me: Viewer
) -> None:
    await vfolders.create("a", me, permission=Permission.READ_ONLY)
    (found,) = await vfolders.mounts(me, [MountOption("a", readonly=False)])
    assert found.readonly


async def test_of_two_folders_of_one_name_in_the_trash_the_id_tells_which(
    vfolders: VFolders, me: Viewer
) -> None:
    made = []
    for _ in range(2):
        made.append(await vfolders.create("a", me))
        await vfolders.trash("a", me)
    with pytest.raises(Conflict, match="2 folders 'a' in the trash; give an id"):
        await vfolders.restore("a", me)
    assert (await vfolders.restore(made[0].id, me)).id == made[0].id
    assert (await vfolders.restore("a", me, name="b")).id == made[1].id
    with pytest.raises(NotFound, match="no folder 'a' in the trash"):
        await vfolders.purge("a", me)


def put_something_into(folder: VFolder, host: VFolderHost) -> list[Path]:
    inner = directory_of(folder) / "deep" / "er"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    kept = host.checkpoints / folder.id
    kept.mkdir()
    (kept / "checkpoint").write_text("x")
    return [directory_of(folder), kept]


async def test_a_purge_leaves_nothing_of_a_folder_and_all_of_others(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    folder, other = [await vfolders.create(name, me) for name in ("a", "b")]
    gone, stays = [put_something_into(f, hosts["local"]) for f in (folder, other)]
    await vfolders.trash("a", me)
    await vfolders.purge("a", me)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stays)
    assert (await vfolders.get(folder.id, me)).status is VFolderStatus.DELETE_COMPLETE


async def purge_halfway(vfolders: VFolders, database: Database, name: str, me: Viewer) -> VFolder:
    """Do what a manager does that is killed as soon as it has given a folder up."""
    folder = await vfolders.get(name, me)
    await vfolders.trash(name, me)
    await VFolderStore(database).begin_purge(folder.id, me)
    return folder


async def test_what_a_killed_manager_left_is_purged_by_the_next_pass(
    vfolders: VFolders, database: Database, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    untouched = await vfolders.create("a", me)
    begun = await vfolders.create("b", me)
    (directory_of(begun) / "file").write_text("x")
    almost_done = await vfolders.create("c", me)
    for name in ("b", "c"):
        await purge_halfway(vfolders, database, name, me)
    directory_of(almost_done).rmdir()
    await vfolders.finish_purges()
    assert not directory_of(begun).exists()
    assert directory_of(untouched).exists()
    statuses = [(await vfolders.get(f.id, me)).status for f in (untouched, begun, almost_done)]
    done = VFolderStatus.DELETE_COMPLETE
    assert statuses == [VFolderStatus.READY, done, done]


async def test_a_host_that_is_away_does_not_keep_other_purges_from_being_finished(
    vfolders: VFolders, database: Database, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    await vfolders.create("a", me, host="nfs")
    await vfolders.create("b", me)
    away, here = [await purge_halfway(vfolders, database, name, me) for name in ("a", "b")]
    back = hosts["nfs"].root.rename(hosts["nfs"].root.with_name("unmounted"))
    await vfolders.finish_purges()
    assert (await vfolders.get(here.id, me)).status is VFolderStatus.DELETE_COMPLETE
    assert (await vfolders.get(away.id, me)).status is VFolderStatus.DELETE_ONGOING
    back.rename(hosts["nfs"].root)
    await vfolders.finish_purges()
    assert not directory_of(away).exists()


async def test_usage_of_a_folder_that_is_away_is_unavailable(
    vfolders: VFolders, hosts: dict[str, VFolderHost], me: Viewer
) -> None:
    folder = await vfolders.create("a", me)
    (directory_of(folder) / "file").write_text("12345")
    assert (await vfolders.usage(folder)).size_bytes == 5
    hosts["local"].root.rename(hosts["local"].root.with_name("unmounted"))
    with pytest.raises(Unavailable, match="'a' cannot be read"):
        await vfolders.usage(folder)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("a", "/home/work/a"),
        ("/a/deep/nb.ipynb", "/home/work/a/deep/nb.ipynb"),
        ("b/nb.ipynb", "/home/work/x/nb.ipynb"),
        (f"{E_ACUTE}/f", f"/home/work/{E_ACUTE}/f"),
        ("e\N{COMBINING ACUTE ACCENT}/f", f"/home/work/{E_ACUTE}/f"),
        ("x", None),
        ("c", None),
        ("", None),
        ("a/../b", None),
    ],
)
def test_a_contents_path_is_where_its_folder_is_mounted(path: str, seen: str | None) -> None:
    mounts = [mount("a"), mount("b", "x"), mount("b", "y"), mount(E_ACUTE)]
    assert kernel_path_of(path, mounts) == seen
    assert workdir_of(path, mounts) == (seen or "/home/work")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/work/a", "a"),
        ("/home/work/a/deep/./f.py", "a/deep/f.py"),
        ("/home/work/x/f.py", "b/f.py"),
        ("/home/work/x/../a/f.py", "a/f.py"),
        ("/home/work/b/f.py", None),
        ("/home/work/ab/f.py", None),
        ("/home/work/here/f.py", None),
        ("/home/work", None),
        ("/etc/passwd", None),
        ("/home/work/a/../../../etc/passwd", None),
        ("a/f.py", None),
    ],
)
def test_a_path_of_a_kernel_is_what_the_file_browser_calls_it(path: str, shown: str | None) -> None:
    working_directory = Mount(source="/somewhere", target="/home/work/here")
    assert contents_path_of(path, [mount("a"), mount("b", "x"), working_directory]) == shown


def test_a_directory_of_this_machine_is_where_a_mount_shows_it() -> None:
    mounts = [mount("a"), mount("b", "x")]
    assert workdir_of_host(Path("/v/b/deep"), mounts) == "/home/work/x/deep"
    assert workdir_of_host(Path("/v"), mounts) is None
