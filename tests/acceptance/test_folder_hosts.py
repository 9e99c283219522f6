"""An agent that lacks a vfolder host, or has another disk in its place, and the sessions then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backendai_jupyter.storage.hosts import VFolderHost
from tests.acceptance.channels import OURS
from tests.acceptance.folders import make_folder, run
from tests.helpers import eventually
from tests.server import RunningServer

Hosts = dict[str, str]


def without_the_second(hosts: Hosts, root: Path) -> Hosts:
    return {"local": hosts["local"]}


def with_another_disk(hosts: Hosts, root: Path) -> Hosts:
    other = VFolderHost("second", root / "other")
    other.prepare()
    return {**hosts, "second": str(other.root)}


@pytest.mark.parametrize(
    ("of_agent", "reason"),
    [
        pytest.param(
            without_the_second,
            "Waiting for an agent that has the vfolder host 'second' mounted.",
            id="not mounted",
        ),
        pytest.param(with_another_disk, "its marker file differs", id="another disk"),
    ],
)
async def test_only_the_session_that_needs_the_host_waits_and_says_why(
    short_tmp_path: Path, of_agent: Callable[[Hosts, Path], Hosts], reason: str
) -> None:
    hosts = {name: str(short_tmp_path / name) for name in ("local", "second")}
    config = (
        "c.BackendAIAgent.runtime = 'process'\n"
        f"c.BackendAI.vfolder_hosts = {hosts!r}\n"
        f"c.BackendAIAgent.vfolder_hosts = {of_agent(hosts, short_tmp_path)!r}\n"
    )
    async with RunningServer(short_tmp_path, config=config) as server:
        near, far = await make_folder(server), await make_folder(server, host="second")
        body = {"name": OURS, "backendai": {"mounts": [far]}}
        waiting = asyncio.create_task(server.post("api/kernels", json=body))
        session = await eventually(lambda: one_that_waits(server))
        assert reason in session["status_reason"]
        assert await run(server, "print(6 * 7)", backendai={"mounts": [near]}) == "42\n"
        assert not waiting.done()
        ended = await server.delete(f"backendai/v1/sessions/{session['id']}")
        assert ended.is_success
        assert not (await waiting).is_success


async def one_that_waits(server: RunningServer) -> dict[str, Any]:
    sessions = (await server.get("backendai/v1/sessions?status=PENDING")).json()
    told: list[dict[str, Any]] = [session for session in sessions if session["status_reason"]]
    return told[0] if told else {}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param(
            "c.BackendAI.vfolder_hosts = {'local': '/no/such/mount/point'}",
            "'local' cannot be used: /no/such/mount/point: No such file or directory",
            id="not mounted",
        ),
        pytest.param(
            "c.BackendAI.vfolder_hosts = {'a b': '/mnt'}",
            "BackendAI.vfolder_hosts['a b']: names consist of",
            id="name",
        ),
        pytest.param(
            "c.BackendAIAgent.vfolder_hosts = {'nfs': 'mnt'}",
            "BackendAIAgent.vfolder_hosts['nfs']: expected the absolute path",
            id="path",
        ),
        pytest.param(
            "c.BackendAI.default_vfolder_host = 'nfs'",
            "there is no vfolder host 'nfs'; known are local",
            id="unknown",
        ),
        pytest.param("c.BackendAIAgent.kernel_uid = 0", "must be above 0", id="malformed"),
    ],
)
async def test_a_server_that_cannot_have_folders_does_not_start_and_says_why(
    short_tmp_path: Path, config: str, says: str
) -> None:
    """It would otherwise serve the files of its working directory."""
    server = RunningServer(short_tmp_path, config=config)
    with pytest.raises(AssertionError, match="the server did not start"):
        await server.start()
    assert says in server.log
    assert "is running at" not in server.log


async def test_a_server_whose_folders_are_elsewhere_than_before_does_not_start(
    short_tmp_path: Path,
) -> None:
    config = f"c.BackendAI.vfolder_hosts = {{'local': {str(short_tmp_path / 'disk')!r}}}"
    async with RunningServer(short_tmp_path, config=config):
        pass
    (short_tmp_path / "disk").rename(short_tmp_path / "unmounted")
    with pytest.raises(AssertionError, match="nothing is mounted: its marker file"):
        await RunningServer(short_tmp_path, config=config).start()
    (short_tmp_path / "unmounted").rename(short_tmp_path / "disk")
    async with RunningServer(short_tmp_path, config=config):
        pass
