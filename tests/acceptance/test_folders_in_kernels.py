"""Folders as kernels see them, on both runtimes: the same files as in the file browser."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.channels import OURS, Channels, started
from tests.acceptance.conftest import RUNTIMES
from tests.acceptance.folders import WRITE, make_directory, make_folder, names_in, put, read, run
from tests.engine import PrivateEngine
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RUNTIMES)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RunningServer]:
    """One server with two hosts for all tests; each makes folders of its own."""
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    lines = [
        f"c.BackendAIAgent.runtime = {request.param!r}",
        f"c.BackendAI.vfolder_hosts = {{'local': '{root}/local', 'second': '{root}/second'}}",
    ]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    async with RunningServer(root, config="\n".join(lines)) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


async def test_a_kernel_changes_what_the_file_browser_made(server: RunningServer) -> None:
    folder = await make_folder(server)
    await make_directory(server, f"{folder}/dir")
    await put(server, f"{folder}/dir/a.txt", "from the browser, ")
    await put(server, f"{folder}/dir/b.txt", "to be deleted")
    code = f"""
import os
os.chdir('/home/work/{folder}')
print(open('dir/a.txt').read())
open('dir/a.txt', 'a').write('and from the kernel')
os.rename('dir/a.txt', 'dir/renamed.txt')
os.remove('dir/b.txt')
os.rename('dir', 'moved')
"""
    assert await run(server, code) == "from the browser, \n"
    assert await names_in(server, folder) == ["moved"]
    assert await names_in(server, f"{folder}/moved") == ["renamed.txt"]
    text = await read(server, f"{folder}/moved/renamed.txt")
    assert text == "from the browser, and from the kernel"


async def test_the_file_browser_changes_what_a_kernel_made(server: RunningServer) -> None:
    folder = await make_folder(server)
    code = f"""
import os
os.chdir('/home/work/{folder}')
os.mkdir('dir')
for name in 'abc':
    open(f'dir/{{name}}.txt', 'w').write('from the kernel')
"""
    await run(server, code)
    assert await read(server, f"{folder}/dir/a.txt") == "from the kernel"
    await put(server, f"{folder}/dir/a.txt", "from the browser")
    new = {"path": f"{folder}/dir/renamed.txt"}
    assert (await server.request("PATCH", f"api/contents/{folder}/dir/b.txt", json=new)).is_success
    assert (await server.delete(f"api/contents/{folder}/dir/c.txt")).status_code == 204
    assert await names_in(server, f"{folder}/dir") == ["a.txt", "renamed.txt"]
    code = f"""
os = __import__('os')
path = '/home/work/{folder}/dir/a.txt'
open(path, 'a').write(', and from the kernel')
print(open(path).read(), os.stat(path).st_uid == os.getuid())
"""
    assert await run(server, code) == "from the browser, and from the kernel True\n"
    assert (await server.delete(f"api/contents/{folder}/dir")).status_code == 204
    assert await names_in(server, folder) == []


async def test_mounts_say_which_folders_a_kernel_sees_where_and_how(server: RunningServer) -> None:
    first, second, third = [await make_folder(server) for _ in range(3)]
    await put(server, f"{second}/a.txt", "x")
    code = f"""{WRITE}
import os
print(sorted(name for name in os.listdir('/home/work') if not name.startswith('.')))
print(write('/home/work/{first}/b.txt'), write('/home/work/alias/b.txt'))
print(write('/home/work/alias/a.txt'), open('/home/work/alias/a.txt').read())
"""
    asked = {"mounts": [first, f"{second}:alias:ro"]}
    names, *said = (await run(server, code, backendai=asked)).splitlines()
    assert names == str(sorted([first, "alias"]))
    assert said == ["written EROFS", "EROFS x"]
    assert await names_in(server, second) == ["a.txt"]
    assert await names_in(server, third) == []


async def test_a_read_only_folder_is_read_only_unasked(server: RunningServer) -> None:
    folder = await make_folder(server, permission="ro")
    code = f"{WRITE}\nprint(write('/home/work/{folder}/a'))"
    assert await run(server, code) == "EROFS\n"
    asked = {"mounts": [{"name": folder, "permission": "rw"}]}
    assert await run(server, code, backendai=asked) == "EROFS\n"


@pytest.mark.parametrize(
    ("mounts", "where"),
    [
        pytest.param(["{}"], "/home/work/{}", id="mounted"),
        pytest.param(["{}:alias"], "/home/work/alias", id="alias"),
    ],
)
async def test_a_notebook_runs_where_its_directory_is_mounted(
    server: RunningServer, mounts: list[str], where: str
) -> None:
    folder = await make_folder(server)
    await make_directory(server, f"{folder}/deep")
    asked = {"mounts": [mount.format(folder) for mount in mounts]}
    printed = await place_of_notebook(server, f"{folder}/deep/nb.ipynb", asked)
    inside = where.format(folder)
    assert printed == f"{inside}/deep {inside}/deep/nb.ipynb\n"


async def test_a_notebook_whose_folder_is_not_mounted_runs_at_home(server: RunningServer) -> None:
    folder = await make_folder(server)
    printed = await place_of_notebook(server, f"{folder}/nb.ipynb", {"mounts": []})
    assert printed == f"/home/work /home/work/{folder}/nb.ipynb\n"


async def place_of_notebook(server: RunningServer, path: str, asked: object) -> str:
    body = {"path": path, "type": "notebook", "kernel": {"name": OURS}, "backendai": asked}
    answer = await server.post("api/sessions", json=body)
    assert answer.status_code == 201, answer.text
    async with Channels.open(server, answer.json()["kernel"]["id"]) as channels:
        printed = await channels.run(
            "import os; print(os.getcwd(), os.environ['JPY_SESSION_NAME'])"
        )
    assert (await server.delete(f"api/sessions/{answer.json()['id']}")).status_code == 204
    return printed


async def test_a_directory_that_is_not_there_is_not_made_by_a_kernel(server: RunningServer) -> None:
    folder = await make_folder(server)
    await run(server, "pass", path=f"{folder}/missing")
    assert await names_in(server, folder) == []


async def test_a_folder_is_renamed_and_purged_only_when_no_kernel_shows_it(
    server: RunningServer,
) -> None:
    folder = await make_folder(server)
    where = f"backendai/v1/vfolders/{folder}"
    kernel_id = await started(server, backendai={"mounts": [folder]})
    renamed = f"{folder}-renamed"
    refused = await server.request("PATCH", where, json={"name": renamed})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    by_browser = await server.request("PATCH", f"api/contents/{folder}", json={"path": renamed})
    assert by_browser.status_code == 403  # a conflict would make JupyterLab offer to overwrite
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
    assert (await server.request("PATCH", where, json={"name": renamed})).is_success
    where = f"backendai/v1/vfolders/{renamed}"
    kernel_id = await started(server, backendai={"mounts": [renamed]})
    assert (await server.delete(where)).status_code == 204
    async with Channels.open(server, kernel_id) as channels:
        code = f"{WRITE}\nprint(write('/home/work/{renamed}/still-there'))"
        assert await channels.run(code) == "written\n"
    refused = await server.post(f"{where}/purge")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
    assert (await server.post(f"{where}/purge")).status_code == 204


async def test_df_shows_the_disk_of_a_folder(server: RunningServer) -> None:
    folder = await make_folder(server)
    code = f"""
import subprocess
said = subprocess.run(['df', '/home/work/{folder}'], capture_output=True, text=True)
print(said.returncode, said.stdout.split()[-1])
"""
    assert await run(server, code) == f"0 /home/work/{folder}\n"


async def test_folders_of_two_hosts_are_side_by_side(server: RunningServer) -> None:
    first, second = await make_folder(server), await make_folder(server, host="second")
    code = f"""{WRITE}
print(write('/home/work/{first}/on-local'), write('/home/work/{second}/on-second'))
"""
    assert await run(server, code, backendai={"mounts": [first, second]}) == "written written\n"
    assert await names_in(server, second) == ["on-second"]
    for host in ("local", "second"):
        assert [path.name for path in (server.root / host).rglob("on-*")] == [f"on-{host}"]
    move = {"path": f"{second}/moved"}
    assert (await server.request("PATCH", f"api/contents/{first}/on-local", json=move)).is_success
    assert await names_in(server, second) == ["moved", "on-second"]


@pytest.fixture
def mounts_here(request: pytest.FixtureRequest, server: RunningServer) -> Callable[[], list[str]]:
    """Return the mounts of this machine, as its tests see them, of the server or its engine."""
    of_engine = str(server.root)
    if request.node.callspec.params["server"] == "docker":
        of_engine = str(request.getfixturevalue("engine").data)

    def now() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if str(server.root) in line or of_engine in line]

    return now


async def test_a_kernel_that_is_killed_leaves_no_mount_behind(
    server: RunningServer, mounts_here: Callable[[], list[str]]
) -> None:
    folder = await make_folder(server)
    before = mounts_here()
    kernel_id = await started(server, backendai={"mounts": [folder]})
    async with Channels.open(server, kernel_id) as channels:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert await channels.run(code) == "KernelDied"
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
    await eventually(lambda: mounts_here() == before)


async def test_a_folder_that_is_made_while_a_kernel_runs_appears_in_it(
    server: RunningServer, mounts_here: Callable[[], list[str]]
) -> None:
    """And is there after a restart, is writable, cannot be purged, and leaves no mount behind."""
    before = mounts_here()
    kernel_id = await started(server)
    async with Channels.open(server, kernel_id) as kernel:
        folder = await make_folder(server)
        fixed = await make_folder(server, permission="ro", host="second")
        await put(server, f"{folder}/a.txt", "from the browser")
        code = f"{WRITE}\nprint(open('/home/work/{folder}/a.txt').read())"

        async def seen() -> bool:
            return await kernel.run(code) == "from the browser\n"

        async def is_fixed() -> bool:
            return await kernel.run(f"print(write('/home/work/{fixed}/b.txt'))") == "EROFS\n"

        await eventually(seen)
        await eventually(is_fixed)
        assert await kernel.run(f"print(write('/home/work/{folder}/b.txt'))") == "written\n"
        assert await read(server, f"{folder}/b.txt") == "x"
        assert (await server.delete(f"api/contents/{folder}")).status_code == 204
        purge = await server.post(f"backendai/v1/vfolders/{folder}/purge")
        assert purge.status_code == 409
        assert await seen()  # what is in the trash stays where it is in use
        assert (await server.post(f"api/kernels/{kernel_id}/restart")).is_success
    async with Channels.open(server, kernel_id) as kernel:
        assert await kernel.run(f"print(open('/home/work/{folder}/b.txt').read())") == "x\n"
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
    assert (await server.post(f"backendai/v1/vfolders/{folder}/purge")).status_code == 204
    assert mounts_here() == before


async def test_a_kernel_that_asked_for_some_folders_gets_no_other_one(
    server: RunningServer,
) -> None:
    chosen = await make_folder(server)
    kernel_id = await started(server, backendai={"mounts": [chosen]})
    other = await make_folder(server)
    async with Channels.open(server, kernel_id) as kernel:
        assert (await server.post(f"api/kernels/{kernel_id}/restart")).is_success
    async with Channels.open(server, kernel_id) as kernel:
        listed = await kernel.run("import os; print(sorted(os.listdir('/home/work')))")
    assert chosen in listed
    assert other not in listed
    assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
