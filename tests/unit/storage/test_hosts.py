"""Vfolder hosts: the marker that proves which one is mounted, and malformed configurations."""

from __future__ import annotations

import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.storage.hosts import VFolderHost, prepare_all, read_hosts, read_markers


@pytest.fixture
def host(tmp_path: Path) -> VFolderHost:
    host = VFolderHost("nfs", tmp_path / "nfs")
    host.prepare()
    return host


def test_a_host_has_no_marker_before_it_was_prepared(tmp_path: Path) -> None:
    assert VFolderHost("nfs", tmp_path).marker() is None


def test_the_marker_is_made_once_by_many_at_a_time(tmp_path: Path) -> None:
    start = Barrier(8)

    def prepare(_: int) -> str | None:
        host = VFolderHost("nfs", tmp_path)
        start.wait()
        host.prepare()
        return host.marker()

    with ThreadPoolExecutor(8) as pool:
        markers = set(pool.map(prepare, range(8)))
    assert len(markers) == 1
    assert None not in markers
    assert [path.name for path in (tmp_path / ".backendai").glob("host*")] == ["host.json"]


def test_the_marker_stays_when_the_host_is_mounted_elsewhere(
    host: VFolderHost, tmp_path: Path
) -> None:
    moved = VFolderHost("nfs", host.root.rename(tmp_path / "elsewhere"))
    marker = moved.marker()
    moved.prepare()
    assert moved.marker() == marker is not None


def test_what_managers_keep_on_a_host_is_theirs_alone(host: VFolderHost) -> None:
    assert stat.S_IMODE((host.root / ".backendai").stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "nfs"}'])
def test_a_marker_that_says_nothing_is_none(host: VFolderHost, content: str) -> None:
    (host.root / ".backendai" / "host.json").write_text(content)
    assert host.marker() is None


def test_a_mount_point_below_a_missing_directory_is_an_error_and_is_not_made(
    tmp_path: Path,
) -> None:
    with pytest.raises(Unavailable, match=r"'nfs' cannot be used: .*/mnt/nfs: No such file"):
        VFolderHost("nfs", tmp_path / "mnt" / "nfs").prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_mount_point_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nfs").write_text("no directory")
    with pytest.raises(Unavailable, match=r"change BackendAI\.vfolder_hosts"):
        VFolderHost("nfs", tmp_path / "nfs").prepare()


def test_one_missing_host_keeps_only_itself_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = read_hosts(
        {"local": str(tmp_path / "local"), "nfs": str(tmp_path / "mnt" / "nfs")}, field="hosts"
    )
    prepare_all(hosts, needed="local", known={})
    assert list(read_markers(hosts)) == ["local"]
    assert "'nfs' cannot be used" in caplog.text
    with pytest.raises(Unavailable, match="'nfs'"):
        prepare_all(hosts, needed="nfs", known={})


def test_markers_are_the_ids_by_name_of_the_host(host: VFolderHost) -> None:
    written = json.loads((host.root / ".backendai" / "host.json").read_text())
    assert read_markers({"nfs": host}) == {"nfs": written["id"]}
    assert written["name"] == "nfs"


def test_a_host_that_went_away_has_no_space(host: VFolderHost) -> None:
    space = host.space()
    assert (
        0
        <= space.free
        <= space.total
        == os.statvfs(host.root).f_blocks * os.statvfs(host.root).f_frsize
    )
    shutil.rmtree(host.root)
    with pytest.raises(Unavailable, match="'nfs' does not answer"):
        host.space()


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        pytest.param({"": "/mnt"}, "hosts['']", id="no name"),
        pytest.param({"a/b": "/mnt"}, "hosts['a/b']", id="name is a path"),
        pytest.param({"ok": "/mnt", ".a": "/mnt"}, "hosts['.a']", id="hidden name"),
        pytest.param({5: "/mnt"}, "hosts[5]", id="name is a number"),
        pytest.param({"x" * 65: "/mnt"}, f"hosts['{'x' * 65}']", id="long name"),
        pytest.param({"a": "mnt"}, "hosts['a']", id="relative path"),
        pytest.param({"a": ""}, "hosts['a']", id="no path"),
        pytest.param({"a": None}, "hosts['a']", id="path is null"),
    ],
)
def test_a_malformed_configuration_names_the_entry(raw: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_hosts(raw, field="hosts")
    assert caught.value.field == field


def test_without_configuration_there_is_one_host_in_the_data_directory() -> None:
    settings = BackendAI(data_dir="/data")
    assert settings.hosts() == {"local": VFolderHost("local", Path("/data/vfolders"))}
    assert settings.default_vfolder_host == "local"
    assert BackendAIAgent().hosts() == {}


def test_the_first_configured_host_is_the_default() -> None:
    settings = BackendAI(vfolder_hosts={"nfs": "/mnt/nfs", "local": "/mnt/local"})
    assert settings.default_vfolder_host == "nfs"
    assert list(settings.hosts()) == ["nfs", "local"]


@pytest.mark.parametrize(
    ("traits", "field"),
    [
        ({"vfolder_hosts": {"a": "b"}}, "BackendAI.vfolder_hosts['a']"),
        ({"vfolder_hosts": {}}, "BackendAI.default_vfolder_host"),
        ({"default_vfolder_host": "nfs"}, "BackendAI.default_vfolder_host"),
    ],
)
def test_a_malformed_setting_is_named(traits: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BackendAI(data_dir="/data", **traits).hosts()
    assert caught.value.field == field


def test_a_malformed_setting_of_the_agent_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        BackendAIAgent(vfolder_hosts={"a": "b"}).hosts()
    assert caught.value.field == "BackendAIAgent.vfolder_hosts['a']"


def test_a_host_that_was_used_before_must_be_the_same(host: VFolderHost, tmp_path: Path) -> None:
    marker = host.marker()
    assert marker is not None
    host.prepare(marker)
    empty = VFolderHost("nfs", tmp_path / "empty")
    empty.root.mkdir()
    with pytest.raises(Unavailable, match=f"nothing is mounted: .* had the id {marker}"):
        empty.prepare(marker)
    assert list(empty.root.iterdir()) == []  # on no account is it taken for a new host
    empty.prepare()
    with pytest.raises(Unavailable, match="something else is mounted"):
        empty.prepare(marker)
    (empty.root / ".backendai" / "host.json").write_text(json.dumps({"id": marker}))
    empty.prepare(marker)  # as the message tells the administrator to


def test_a_marker_that_cannot_be_read_is_not_replaced(host: VFolderHost) -> None:
    path = host.root / ".backendai" / "host.json"
    path.write_text("{")
    with pytest.raises(Unavailable, match="cannot be read"):
        host.prepare()
    assert path.read_text() == "{"


def test_the_other_hosts_are_used_where_one_is_another_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = read_hosts({"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}, field="hosts")
    prepare_all(hosts, needed="a", known={"b": "another"})
    assert list(read_markers(hosts)) == ["a"]
    assert "'b' should be, nothing is mounted" in caplog.text
