"""Uploads: what comes in parts, and is in its folder when the last one is there."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backendai_jupyter.domain.records import User, Viewer
from backendai_jupyter.domain.vfolders import Permission
from backendai_jupyter.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from backendai_jupyter.manager.uploads import LIFETIME_S, Upload, Uploads
from backendai_jupyter.manager.vfolders import VFolders
from backendai_jupyter.storage.hosts import VFolderHost
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.vfolders import VFolderStore


@dataclass
class Place:
    """A folder ``data`` on the host ``local``, of one of two hosts, and a clock."""

    vfolders: VFolders
    viewer: Viewer
    directory: Path
    host: VFolderHost
    now: float

    @property
    def uploads(self) -> Uploads:
        """A new one each time: nothing may depend on what it remembers."""
        return Uploads(self.vfolders, now=lambda: self.now)

    async def begin(self, path: str = "f.bin", *, length: int = 10) -> Upload:
        return await self.uploads.begin("data", path, self.viewer, length=length)

    async def get(self, upload: Upload) -> Upload:
        return await self.uploads.get("data", upload.id, self.viewer)

    def left(self) -> list[str]:
        """Return what lies beside the folders."""
        return sorted(path.suffix for path in self.host.uploads.iterdir())


@pytest.fixture
async def place(tmp_path: Path, database: Database, owner: User) -> AsyncIterator[Place]:
    viewer = Viewer(owner.id)
    shared_memory = Path(tempfile.mkdtemp(dir="/dev/shm"))  # another file system than tmp_path
    hosts = {
        "local": VFolderHost("local", tmp_path / "local"),
        "other": VFolderHost("other", shared_memory),
    }
    for host in hosts.values():
        host.prepare()
    vfolders = VFolders(
        VFolderStore(database),
        hosts=hosts,
        default_host="local",
        owner_ids=(1000, 1000),
        now=time.time,
    )
    directory = Path((await vfolders.create("data", viewer)).path)
    yield Place(vfolders, viewer, directory, hosts["local"], now=time.time())
    shutil.rmtree(shared_memory)


async def test_a_file_appears_when_its_last_byte_is_there(place: Place) -> None:
    upload = await place.begin()
    upload = await upload.append(b"hello")
    assert upload.offset == 5
    assert list(place.directory.iterdir()) == []
    await upload.append(b"world")
    assert (await place.get(upload)).offset == 10
    assert (place.directory / "f.bin").read_bytes() == b"helloworld"
    assert place.left() == [".json"]


async def test_what_is_there_is_known_to_a_manager_that_never_saw_it(place: Place) -> None:
    upload = await (await place.begin()).append(b"hello")
    found = await place.get(upload)
    assert (found.offset, found.length, found.path) == (5, 10, "f.bin")
    assert [one.id for one in await place.uploads.list("data", place.viewer)] == [upload.id]


async def test_a_finished_upload_is_still_known_and_not_listed(place: Place) -> None:
    upload = await (await place.begin(length=5)).append(b"hello")
    for _ in range(2):
        assert (await place.get(upload)).offset == 5
    assert await place.uploads.list("data", place.viewer) == []
    with pytest.raises(Conflict):
        await upload.append(b"")


async def test_an_empty_file_is_there_at_once(place: Place) -> None:
    await place.begin("empty", length=0)
    assert (place.directory / "empty").read_bytes() == b""


async def test_two_requests_may_complete_one_upload(place: Place) -> None:
    upload = await (await place.begin(length=5)).append(b"hello")
    found = await asyncio.gather(*(place.get(upload) for _ in range(8)))
    assert {one.offset for one in found} == {5}
    assert (place.directory / "f.bin").read_bytes() == b"hello"


async def test_a_directory_that_went_away_can_come_back(place: Place) -> None:
    (place.directory / "sub").mkdir()
    upload = await (await place.begin("sub/f.bin", length=5)).append(b"hello")
    (place.directory / "sub").rmdir()
    with pytest.raises(NotFound):
        await place.get(upload)
    (place.directory / "sub").mkdir()
    await place.get(upload)
    assert (place.directory / "sub" / "f.bin").read_bytes() == b"hello"


async def test_bytes_are_taken_once_and_no_more_than_announced(place: Place) -> None:
    upload = await place.begin()
    again = await place.get(upload)
    upload = await upload.append(b"hello")
    with pytest.raises(Conflict, match="5 bytes"):
        await again.append(b"hello")
    with pytest.raises(InvalidInput, match="10 bytes"):
        await upload.append(b"too much")
    assert (await place.get(upload)).offset == 5


async def test_what_may_come_next_is_checked_before_it_comes(place: Place) -> None:
    upload = await (await place.begin()).append(b"hello")
    upload.check_next(5, 5)
    with pytest.raises(Conflict):
        upload.check_next(4, 1)
    with pytest.raises(InvalidInput):
        upload.check_next(5, 6)


async def test_an_upload_replaces_a_file_and_keeps_its_mode(place: Place) -> None:
    old = place.directory / "f.bin"
    old.write_text("old")
    old.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(old, 1000, 1000)
    await place.get(await (await place.begin(length=3)).append(b"new"))
    assert (old.read_text(), old.stat().st_mode & 0o777) == ("new", 0o640)
    assert old.stat().st_uid == place.directory.stat().st_uid


async def test_a_folder_may_be_renamed_while_a_file_arrives(place: Place) -> None:
    upload = await place.begin("a.bin", length=3)
    await place.vfolders.change("data", place.viewer, name="renamed")
    await upload.append(b"abc")
    await place.uploads.get(upload.folder_id, upload.id, place.viewer)
    assert (place.directory / "a.bin").read_bytes() == b"abc"


async def test_a_link_may_lead_to_a_folder_on_another_host(place: Place) -> None:
    far = await place.vfolders.create("far", place.viewer, host="other")
    (place.directory / "link").symlink_to("/home/work/far")
    upload = await (await place.begin("link/f.bin", length=3)).append(b"abc")
    await place.get(upload)
    made = Path(far.path) / "f.bin"
    assert made.read_bytes() == b"abc"
    assert made.stat().st_dev != place.directory.stat().st_dev
    assert place.left() == [".json"]


async def test_an_upload_belongs_to_who_began_it(place: Place) -> None:
    upload = await place.begin()
    stranger = Viewer("stranger", sees_everything=True)
    for ask in (place.uploads.get, place.uploads.discard):
        with pytest.raises(NotFound):
            await ask("data", upload.id, stranger)
    assert await place.uploads.list("data", stranger) == []
    assert (await place.get(upload)).offset == 0


async def test_an_upload_is_found_in_its_own_folder_only(place: Place) -> None:
    upload = await place.begin()
    await place.vfolders.create("else", place.viewer)
    with pytest.raises(NotFound):
        await place.uploads.get("else", upload.id, place.viewer)
    for nonsense in ("../host", "", "0" * 32):
        with pytest.raises(NotFound):
            await place.uploads.get("data", nonsense, place.viewer)


async def test_an_upload_that_is_given_up_leaves_nothing(place: Place) -> None:
    upload = await (await place.begin()).append(b"hello")
    await place.uploads.discard("data", upload.id, place.viewer)
    assert place.left() == []
    with pytest.raises(NotFound):
        await place.get(upload)
    with pytest.raises(Conflict):
        await upload.append(b"world")


async def test_an_upload_that_nobody_goes_on_with_is_swept_away(place: Place) -> None:
    stale = await (await place.begin("stale")).append(b"hello")
    done = await (await place.begin("done", length=1)).append(b"x")
    await place.get(done)
    place.now += LIFETIME_S - 60
    await place.begin("young")
    assert (await place.get(stale)).offset == 5
    place.now += 120
    await place.begin("next")
    for gone in (stale, done):
        with pytest.raises(NotFound):
            await place.get(gone)
    assert (place.directory / "done").exists()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("", InvalidInput, id="the folder itself"),
        pytest.param("sub", InvalidInput, id="a directory"),
        pytest.param("none/f.bin", NotFound, id="no such directory"),
        pytest.param("file/f.bin", NotFound, id="below a file"),
        pytest.param("../other", InvalidInput, id="above the folder"),
        pytest.param("out/f.bin", NotFound, id="through a link that leads out"),
        pytest.param("x" * 300, NotFound, id="a name that is too long"),
    ],
)
async def test_a_place_that_cannot_be_is_refused_before_anything_is_sent(
    place: Place, path: str, kind: type[Exception]
) -> None:
    (place.directory / "sub").mkdir()
    (place.directory / "file").touch()
    (place.directory / "out").symlink_to("/tmp")
    with pytest.raises(kind):
        await place.begin(path)
    assert place.left() == []


async def test_more_than_there_is_room_for_is_refused(place: Place) -> None:
    with pytest.raises(InvalidInput, match="bytes are free") as caught:
        await place.begin(length=1 << 60)
    assert caught.value.field == "Upload-Length"
    assert place.left() == []


async def test_nothing_is_written_into_a_read_only_folder(place: Place) -> None:
    upload = await place.begin(length=1)
    await place.vfolders.change("data", place.viewer, permission=Permission.READ_ONLY)
    with pytest.raises(Refused):
        await place.begin("another")
    await upload.append(b"x")
    with pytest.raises(Refused):
        await place.get(upload)
    await place.vfolders.change("data", place.viewer, permission=Permission.READ_WRITE)
    await place.get(upload)
    assert (place.directory / "f.bin").read_bytes() == b"x"


async def test_a_host_that_went_away_is_named(place: Place) -> None:
    place.host.uploads.rename(place.host.uploads.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="'local'"):
        await place.begin()
