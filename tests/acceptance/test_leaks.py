"""A hostile kernel and every way into the server's files: nothing outside of its folder is hit.

The kernel plants what it can in its folder, the test asks the running server for it in all
the ways that there are, and nothing may be read, written, made or removed outside.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest
import pytest_asyncio

from tests.acceptance.channels import Channels, started
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "what only the server may know"
MINE = "overwritten by a hostile kernel"
FILE = {"type": "file", "format": "text", "content": MINE}
RACES = 400

PLANT = """
import os, socket
os.chdir("/home/work/data")
secret, state = {secret!r}, {state!r}
for name, target in {{
    "file": f"{{secret}}/key.txt",
    "dir": secret,
    "new": f"{{secret}}/new.txt",
    "up": "../../..",
    "chain": "dir",
    "etc": "/etc",
    "proc": "/proc/self/root",
    "fds": "/proc/self/fd",
    "state": state,
    "loop": "loop",
}}.items():
    os.symlink(target, name)
open("own.txt", "w").write("own")
os.mkdir("sub")
os.symlink(f"{{secret}}/key.txt", "sub/key.txt")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
print("planted")
"""
RACE = """
import ctypes, os, threading
os.chdir("/home/work/data")
os.makedirs("race", exist_ok=True)
open("race/key.txt", "w").write("harmless")
os.symlink({secret!r}, "race-link")
libc, racing = ctypes.CDLL(None), True
def swap():
    while racing:
        libc.renameat2(-100, b"race", -100, b"race-link", 2)
threading.Thread(target=swap, daemon=True).start()
print("racing")
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Victim:
    """A server with something to lose, and a kernel of it that is hostile."""

    def __init__(self, server: RunningServer, secret: Path, kernel: Channels) -> None:
        self.server = server
        self.secret = secret
        self.kernel = kernel

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Send exactly this path: a client of good manners would tidy it up."""
        headers = {"Authorization": f"token {self.server.token}"}
        content = None if body is None else json.dumps(body).encode()
        return await asyncio.to_thread(self._ask, method, path, headers, content)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None
    ) -> Answer:
        host = self.server.url.removeprefix("http://").rstrip("/")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=False)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(content or b"")))
            connection.endheaders(content)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    async def refuses(self, method: str, path: str, body: object = None) -> None:
        answer = await self.ask(method, path, body)
        assert SECRET.encode() not in answer.body, f"{method} {path} gave the secret away"
        assert base64.b64encode(SECRET.encode())[:-4] not in answer.body
        assert 400 <= answer.status < 500, f"{method} {path}: {answer}"


def snapshot(*places: Path) -> dict[str, object]:
    """Return all that can be seen of directories: names, kinds, contents, times."""
    found: dict[str, object] = {}
    for place in places:
        for path in [place, *place.rglob("*")]:
            seen = path.lstat()
            text = path.read_bytes() if stat.S_ISREG(seen.st_mode) else b""
            found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_mtime_ns, text)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def victim() -> AsyncIterator[Victim]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    secret = root / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text(SECRET)
    nbformat.write(nbformat.v4.new_notebook(metadata={"secret": SECRET}), secret / "nb.ipynb")
    config = "c.BackendAIAgent.runtime = 'process'\n"
    async with RunningServer(root, config=config) as server:
        kernel_id = await started(server, path="data")
        async with Channels.open(server, kernel_id) as kernel:
            state = str(root / "data" / "backendai")
            planted = await kernel.run(PLANT.format(secret=str(secret), state=state))
            assert planted == "planted\n"
            yield Victim(server, secret, kernel)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def untouched(victim: Victim) -> Iterator[None]:
    before = snapshot(victim.secret)
    yield
    assert snapshot(victim.secret) == before


OUT = [
    "data/file",
    "data/dir",
    "data/dir/key.txt",
    "data/dir/nb.ipynb",
    "data/new",
    "data/up",
    "data/chain/key.txt",
    "data/etc/passwd",
    "data/proc/etc/passwd",
    "data/fds/0",
    "data/state/backendai.sqlite",
    "data/loop",
    "data/sub/key.txt",
    "data/dir/new.txt",
]
STRANGE = [
    "data/../../../../../../../../etc/passwd",
    "data/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "data/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "data/%252e%252e/%252e%252e/etc/passwd",
    "data/..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "data//..//..//etc/passwd",
    "data/own.txt%00.png",
    "data/%00",
    "data/%c0%ae%c0%ae/etc/passwd",
    "data/%ff%fe",
    f"data/{'x' * 300}",
    f"data/{'d/' * 2000}x",
    ".backendai/host.json",
    "data/.backendai/host.json",
    "..",
    "data/../.backendai/checkpoints",
]
DEVICES = ["data/pipe", "data/socket"]


@pytest.mark.parametrize("path", [*OUT, *STRANGE, *DEVICES])
async def test_it_cannot_be_read(path: str, victim: Victim) -> None:
    for query in ("", "?type=file&format=base64", "?hash=1", "?content=0", "?type=directory"):
        await victim.refuses("GET", f"/api/contents/{path}{query}")
    for way in ("files", "view", "nbconvert/html", "nbconvert/script", "notebooks", "tree"):
        await victim.refuses("GET", f"/{way}/{path}")
    await victim.refuses("GET", f"/files/{path}?download=1")
    await victim.refuses("HEAD", f"/files/{path}")


@pytest.mark.parametrize("path", [*OUT, *STRANGE, *DEVICES])
async def test_it_cannot_be_written_made_moved_or_removed(path: str, victim: Victim) -> None:
    contents = f"/api/contents/{path}"
    await victim.refuses("PUT", contents, FILE)
    await victim.refuses("PUT", contents, {**FILE, "chunk": 1})
    await victim.refuses("PUT", contents, {**FILE, "chunk": -1})
    await victim.refuses("PUT", f"{contents}/made", {"type": "directory"})
    await victim.refuses("POST", contents, {"type": "notebook"})
    await victim.refuses("POST", contents, {"copy_from": "data/own.txt"})
    await victim.refuses("POST", "/api/contents/data", {"copy_from": path})
    await victim.refuses("PATCH", contents, {"path": "data/stolen"})
    await victim.refuses("PATCH", "/api/contents/data/own.txt", {"path": f"{path}/x"})
    await victim.refuses("POST", f"{contents}/checkpoints")
    await victim.refuses("POST", f"{contents}/checkpoints/checkpoint")
    await victim.refuses("DELETE", f"{contents}/checkpoints/checkpoint")
    await victim.refuses("DELETE", f"{contents}/checkpoints/..%2f..%2fkey.txt")
    await victim.refuses("POST", f"{contents}/trust")


@pytest.mark.parametrize("path", [*OUT, *STRANGE, *DEVICES])
async def test_it_cannot_be_had_through_our_own_api(path: str, victim: Victim) -> None:
    folder, _, rest = path.partition("/")
    asked = quote(rest, safe="%")
    for ref in {folder or "data", "data"}:
        api = f"/backendai/v1/vfolders/{quote(ref, safe='')}"
        await victim.refuses("GET", f"{api}/files?path={asked}")
        await victim.refuses("HEAD", f"{api}/files?path={asked}")
        await victim.refuses("POST", f"{api}/uploads?path={asked}%2fx")


@pytest.mark.parametrize("path", [*OUT, *DEVICES, "data/..", "data/../x", "data/%00"])
async def test_no_directory_is_made_there_through_our_own_api(path: str, victim: Victim) -> None:
    rest = quote(path.removeprefix("data/"), safe="%")
    await victim.refuses("PUT", f"/backendai/v1/vfolders/data/directories?path={rest}%2fmade")


@pytest.mark.parametrize("path", OUT)
async def test_not_even_its_existence_is_told(path: str, victim: Victim) -> None:
    kernels = (await victim.server.get("api/kernels")).json()
    for name in (f"/home/work/{path}", path, f"~/{path}", str(victim.secret / "key.txt")):
        query = f"path={quote(name, safe='')}&kernel={kernels[0]['id']}"
        answer = await victim.ask("GET", f"/api/resolvePath?{query}")
        assert json.loads(answer.body)["resolved"] == []
    missing = await victim.ask("GET", "/api/contents/data/dir/there-is-no-such-file")
    there = await victim.ask("GET", f"/api/contents/{path}")
    assert missing.status == there.status == 404


async def test_a_listing_shows_nothing_of_it(victim: Victim) -> None:
    listed = (await victim.server.get("api/contents/data")).json()["content"]
    assert {entry["name"] for entry in listed} <= {"own.txt", "sub", "race", "Untitled.ipynb"}


async def test_a_copied_directory_does_not_bring_it_in(victim: Victim) -> None:
    made = await victim.ask("POST", "/api/contents/data/sub", {"copy_from": "data/sub"})
    assert made.status == 201
    await victim.refuses("GET", "/api/contents/data/sub/sub/key.txt")
    removed = await victim.ask("DELETE", "/api/contents/data/sub/sub")
    assert removed.status == 204


async def test_a_notebook_that_names_files_of_the_server_is_converted_without_them(
    victim: Victim,
) -> None:
    key = victim.secret / "key.txt"
    cells = [
        nbformat.v4.new_markdown_cell(f"![]({key}) ![](file://{key}) ![](dir/key.txt)"),
        nbformat.v4.new_markdown_cell(f'<img src="{key}"> <iframe src="file://{key}"></iframe>'),
        nbformat.v4.new_raw_cell("{% include '" + str(key) + "' %}"),
    ]
    model = {"type": "notebook", "content": nbformat.v4.new_notebook(cells=cells)}
    saved = await victim.ask("PUT", "/api/contents/data/Untitled.ipynb", model)
    assert saved.status == 201
    for format in ("html", "script", "markdown", "notebook", "python"):
        answer = await victim.ask("GET", f"/nbconvert/{format}/data/Untitled.ipynb")
        assert answer.status == 200, answer
        assert SECRET.encode() not in answer.body
        assert base64.b64encode(SECRET.encode())[:-4] not in answer.body


@pytest.mark.parametrize("path", ["backendai-python/../../secret/key.txt", "..%2f..%2fsecret"])
async def test_resources_of_kernelspecs_lead_nowhere_else(path: str, victim: Victim) -> None:
    await victim.refuses("GET", f"/kernelspecs/{path}")


async def test_a_hard_link_to_a_foreign_file_cannot_be_made_nor_read(victim: Victim) -> None:
    code = f"import os; os.link({str(victim.secret / 'key.txt')!r}, '/home/work/data/hard')"
    assert await victim.kernel.run(code) in {"FileNotFoundError", "OSError", "PermissionError"}
    await victim.refuses("GET", "/api/contents/data/hard")


async def test_a_hard_link_that_somebody_made_by_other_means_cannot_be_read(
    victim: Victim,
) -> None:
    (folder,) = (victim.server.root / "data" / "backendai" / "vfolders").glob("*-*/*")
    (folder / "hard").hardlink_to(victim.secret / "key.txt")
    try:
        await victim.refuses("GET", "/api/contents/data/hard")
        await victim.refuses("GET", "/files/data/hard")
        await victim.refuses("POST", "/api/contents/data", {"copy_from": "data/hard"})
        await victim.refuses("POST", "/api/contents/data/hard/checkpoints")
    finally:
        (folder / "hard").unlink()


async def test_what_is_in_the_trash_cannot_be_had(victim: Victim) -> None:
    await victim.ask("PUT", "/api/contents/gone", {"type": "directory"})
    await victim.ask("PUT", "/api/contents/gone/a.txt", {**FILE, "content": SECRET})
    assert (await victim.ask("DELETE", "/api/contents/gone")).status == 204
    for way in ("api/contents", "files"):
        await victim.refuses("GET", f"/{way}/gone/a.txt")
    (listed,) = [
        folder
        for folder in (await victim.server.get("backendai/v1/vfolders")).json()
        if folder["name"] == "gone"
    ]
    await victim.refuses("GET", f"/backendai/v1/vfolders/{listed['id']}/files?path=a.txt")


async def test_a_race_against_the_running_server_wins_nothing(victim: Victim) -> None:
    assert await victim.kernel.run(RACE.format(secret=str(victim.secret))) == "racing\n"
    seen: dict[int, int] = {}
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/api/contents/data/race/key.txt", None),
        ("GET", "/files/data/race/key.txt", None),
        ("GET", "/api/contents/data/race", None),
        ("PUT", "/api/contents/data/race/key.txt", {**FILE, "content": "harmless"}),
        ("PUT", "/api/contents/data/race/made.txt", FILE),
        ("POST", "/api/contents/data/race/key.txt/checkpoints", None),
        ("DELETE", "/api/contents/data/race/made.txt", None),
        ("PUT", "/backendai/v1/vfolders/data/directories?path=race%2fmade", None),
    ]
    for _ in range(RACES):
        for method, path, body in requests:
            answer = await victim.ask(method, path, body)
            assert SECRET.encode() not in answer.body, f"{method} {path}"
            assert answer.status < 500, f"{method} {path}: {answer}"
            seen[answer.status // 100] = seen.get(answer.status // 100, 0) + 1
    assert min(seen.get(2, 0), seen.get(4, 0)) > RACES // 10, f"nobody has raced: {seen}"
    await victim.kernel.run("racing = False")
