"""``/api/resolvePath``: a click on a path that a kernel has printed opens the file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.channels import Channels, started
from tests.acceptance.folders import make_directory, make_folder, put
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Scene:
    """A server with a kernel that shows one folder as ``code`` and another not at all."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.shown = self.hidden = self.kernel_id = ""

    async def set_up(self) -> None:
        self.shown, self.hidden = [await make_folder(self.server) for _ in range(2)]
        await make_directory(self.server, f"{self.shown}/lib")
        await put(self.server, f"{self.shown}/lib/mod.py", "def fail():\n    1 / 0\n")
        await put(self.server, f"{self.hidden}/mod.py", "")
        asked = {"mounts": [f"{self.shown}:code"]}
        self.kernel_id = await started(self.server, path=f"{self.shown}/lib", backendai=asked)

    async def resolve(self, path: str, **query: str) -> Any:
        answer = await self.server.get("api/resolvePath", params={"path": path, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def of_kernel(self, path: str) -> list[str]:
        """Return what the file browser can open for a path of the kernel."""
        resolved = (await self.resolve(path, kernel=self.kernel_id))["resolved"]
        assert {entry["scope"] for entry in resolved} <= {"server"}
        return [entry["path"] for entry in resolved]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    async with RunningServer(root, config="c.BackendAIAgent.runtime = 'process'\n") as server:
        scene = Scene(server)
        await scene.set_up()
        yield scene
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/work/code/lib/mod.py", "lib/mod.py"),
        ("~/code/lib/mod.py", "lib/mod.py"),
        ("mod.py", "lib/mod.py"),
        ("../lib/mod.py", "lib/mod.py"),
        ("/home/work/code/lib", "lib"),
    ],
)
async def test_a_path_is_found_through_the_alias(scene: Scene, path: str, shown: str) -> None:
    assert await scene.of_kernel(path) == [f"{scene.shown}/{shown}"]


async def test_the_path_in_a_traceback_is_found(scene: Scene) -> None:
    async with Channels.open(scene.server, scene.kernel_id) as channels:
        code = """
import sys, traceback
sys.path.insert(0, '')
import mod
try:
    mod.fail()
except ZeroDivisionError as error:
    print(traceback.extract_tb(error.__traceback__)[-1].filename)
"""
        printed = (await channels.run(code)).strip()
    assert await scene.of_kernel(printed) == [f"{scene.shown}/lib/mod.py"]


async def test_what_is_in_no_folder_of_the_kernel_looks_as_if_it_were_not_there(
    scene: Scene,
) -> None:
    async with Channels.open(scene.server, scene.kernel_id) as channels:
        await channels.run("import os; os.symlink('/etc', '/home/work/code/etc')")
        await channels.run("open('/home/work/private', 'w').close()")
    missing = await scene.resolve("/home/work/code/none", kernel=scene.kernel_id)
    for path in (
        "/etc/passwd",
        "/home/work/code/etc/passwd",
        "/home/work/code/../../../etc/passwd",
        "/home/work/private",
        f"/home/work/{scene.shown}/lib/mod.py",
        f"/home/work/{scene.hidden}/mod.py",
        f"~/{scene.hidden}/mod.py",
        f"{scene.shown}/lib/mod.py",
        "~",
    ):
        assert await scene.resolve(path, kernel=scene.kernel_id) == missing == {"resolved": []}


async def test_without_a_kernel_a_path_is_looked_for_in_all_folders(scene: Scene) -> None:
    path = f"{scene.hidden}/mod.py"
    expected = {"resolved": [{"scope": "server", "path": path}]}
    assert await scene.resolve(path) == expected
    assert await scene.resolve(f"/home/work/{path}") == expected
    assert await scene.resolve("/etc/passwd") == {"resolved": []}


async def test_for_a_kernel_that_is_not_ours_jupyter_answers_as_ever(scene: Scene) -> None:
    local = await started(scene.server, name="python3")
    path = f"{scene.hidden}/mod.py"
    answer = await scene.resolve(path, kernel=local)
    assert answer == {"resolved": [{"scope": "server", "path": path}]}
    answer = await scene.resolve(path, kernel="no-such-kernel")
    assert [entry["scope"] for entry in answer["unresolved"]] == ["kernel"]


async def test_without_a_path_the_request_is_malformed(scene: Scene) -> None:
    for query in ({}, {"kernel": scene.kernel_id}):
        answer = await scene.server.get("api/resolvePath", params=query)
        assert answer.status_code == 400
