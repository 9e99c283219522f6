"""Virtual folders through their front doors: REST, resumable uploads, downloads, commands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "backendai/v1/vfolders"
CONFIG = "c.BackendAIAgent.runtime = 'process'\n"
JUPYTER = Path(sys.executable).parent / "jupyter"
TUS = {"Tus-Resumable": "1.0.0"}
BYTES_FOLLOW = {**TUS, "Content-Type": "application/offset+octet-stream"}
MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningServer]:
    root = Path(tempfile.mkdtemp(prefix="bj-"))
    try:
        async with RunningServer(root, config=CONFIG) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Cut(Exception):
    """The client's connection ends here."""


async def blocks_of(content: bytes, *, cut: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(content), MIB):
        yield content[start : start + MIB]
    if cut:
        raise Cut


async def begin(server: RunningServer, path: str, length: int, **headers: str) -> str:
    """Begin an upload into ``data`` and return where it is."""
    announced = {**TUS, "Upload-Length": str(length), **headers}
    answer = await server.post(f"{API}/data/uploads", params={"path": path}, headers=announced)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return str(answer.headers["Location"].lstrip("/"))


async def send(
    server: RunningServer, upload: str, offset: int, content: bytes | AsyncIterator[bytes]
) -> httpx.Response:
    headers = {**BYTES_FOLLOW, "Upload-Offset": str(offset)}
    return await server.request("PATCH", upload, headers=headers, content=content)


async def offset_of(server: RunningServer, upload: str) -> int:
    answer = await server.request("HEAD", upload, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    return int(answer.headers["Upload-Offset"])


async def download(server: RunningServer, path: str, **headers: str) -> httpx.Response:
    return await server.get(f"{API}/data/files", params={"path": path}, headers=headers)


async def started(*words: str | Path, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(JUPYTER),
        *("backendai", "vfolder", *map(str, words)),
        env=dict(env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def vfolder(*words: str | Path, env: Mapping[str, str], code: int = 0) -> str:
    """Run a command and return what it printed; the error if it is to fail."""
    process = await started(*words, env=env)
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return (err if code else out).decode()


@asynccontextmanager
async def bad_connection(
    server: RunningServer, *, after: int, cuts: int = 3, silent: bool = False
) -> AsyncIterator[dict[str, str]]:
    """Yield an environment in which the server is reached by connections that soon break.

    Each of the first transfers ends after some bytes of it; what is short gets through.  A
    ``silent`` break is one that nobody is told of: what is sent then goes nowhere.
    """

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        nonlocal cuts
        passed = 0
        while block := await source.read(64 * 1024):
            passed += len(block)
            if cuts > 0 and passed > after:
                cuts -= 1
                while silent and await source.read(64 * 1024):
                    """It goes nowhere."""
                break
            target.write(block)
            await target.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = httpx.URL(server.url).port
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        ways = [pump(reader, upstream), pump(upstream_reader, writer)]
        _, pending = await asyncio.wait(
            [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
        )
        for way in pending:
            way.cancel()
        for end in (upstream, writer):
            end.transport.abort()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/"
    runtime = server.root / f"proxied-{url.rpartition(':')[2][:-1]}"
    runtime.mkdir()
    info = {"url": url, "token": server.token, "pid": server.pid}
    (runtime / "jpserver-1.json").write_text(json.dumps(info))
    yield {**server.env, "JUPYTER_RUNTIME_DIR": str(runtime)}
    assert silent or cuts == 0
    proxy.close()


async def test_a_folder_lives_and_ends_through_the_api(server: RunningServer) -> None:
    made = await server.post(API, json={"name": "Bär & Co", "permission": "ro"})
    assert made.status_code == 201, made.text
    again = await server.post(API, json={"name": "Bär & Co"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    change = {"name": "bear", "permission": "rw"}
    changed = await server.request("PATCH", f"{API}/B%C3%A4r%20%26%20Co", json=change)
    assert (changed.json()["name"], changed.json()["permission"]) == ("bear", "rw")
    assert (await server.delete(f"{API}/bear")).status_code == 204
    trashed = (await server.get(f"{API}/{made.json()['id']}")).json()
    assert (trashed["status"], trashed["trashed_at"] is None) == ("delete-pending", False)
    restored = await server.post(f"{API}/bear/restore", json={"name": "cub"})
    assert (restored.json()["id"], restored.json()["name"]) == (made.json()["id"], "cub")
    assert (await server.delete(f"{API}/cub")).status_code == 204
    assert (await server.post(f"{API}/cub/purge")).status_code == 204
    assert "cub" not in [folder["name"] for folder in (await server.get(API)).json()]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param({}, "name", id="nothing"),
        pytest.param({"name": "a/b"}, "name", id="a name that cannot be"),
        pytest.param({"name": "a", "host": "moon"}, "host", id="unknown host"),
        pytest.param({"name": "a", "size": 3}, "size", id="unknown field"),
    ],
)
async def test_a_malformed_request_is_refused_by_field(
    server: RunningServer, body: dict[str, Any], field: str
) -> None:
    answer = await server.post(API, json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_usage_and_hosts_are_told(server: RunningServer) -> None:
    upload = await begin(server, "u.bin", 3)
    assert (await send(server, upload, 0, b"abc")).status_code == 204
    usage = (await server.get(f"{API}/data")).json()["usage"]
    assert usage["files"] >= 1
    assert usage["size_bytes"] >= 3
    listed = (await server.get(f"{API}?usage=true&status=ready")).json()
    assert {one["name"]: one["usage"] for one in listed}["data"] == usage
    [host] = (await server.get("backendai/v1/vfolder-hosts")).json()
    assert host["is_default"]
    assert 0 < host["free_bytes"] < host["total_bytes"]


async def test_an_upload_survives_a_cut_and_a_killed_server(short_tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 * 8  # 8 MiB
    async with RunningServer(short_tmp_path, config=CONFIG) as first:
        upload = await begin(first, "big.bin", len(content))
        with pytest.raises(Cut):
            await send(first, upload, 0, blocks_of(content[: 5 * MIB], cut=True))
        assert await eventually(lambda: offset_of(first, upload)) > 0
        first.signal(signal.SIGKILL)
        await first.wait()
    async with RunningServer(short_tmp_path, config=CONFIG) as second:
        offset = await offset_of(second, upload)
        assert 0 < offset <= 5 * MIB
        assert (await download(second, "big.bin")).status_code == 404
        answer = await send(second, upload, offset, content[offset:])
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(content)))
        assert await offset_of(second, upload) == len(content)
        assert (await download(second, "big.bin")).content == content


async def test_the_protocol_is_kept_to_the_letter(server: RunningServer) -> None:
    offer = await server.request("OPTIONS", f"{API}/data/uploads")
    assert (offer.status_code, offer.headers["Tus-Version"]) == (204, "1.0.0")
    assert offer.headers["Tus-Extension"] == "creation,termination"
    upload = await begin(server, "strict.bin", 10, **{"Upload-Metadata": "name c3RyaWN0"})
    head = await server.request("HEAD", upload, headers=TUS)
    assert head.headers["Upload-Length"] == "10"
    assert head.headers["Upload-Metadata"] == "name c3RyaWN0"
    [listed] = (await server.get(f"{API}/data/uploads")).json()
    assert (listed["path"], listed["offset"]) == ("strict.bin", 0)
    old = await server.request("HEAD", upload, headers={"Tus-Resumable": "0.2.2"})
    assert (old.status_code, old.headers["Tus-Version"]) == (412, "1.0.0")
    for status, headers, content in (
        (409, {**BYTES_FOLLOW, "Upload-Offset": "3"}, b"x"),
        (415, {**TUS, "Upload-Offset": "0", "Content-Type": "text/plain"}, b"x"),
        (400, {**BYTES_FOLLOW, "Upload-Offset": "0"}, b"x" * 11),
        (400, BYTES_FOLLOW, b"x"),
    ):
        answer = await server.request("PATCH", upload, headers=headers, content=content)
        assert answer.status_code == status, answer.text
        assert await offset_of(server, upload) == 0
    override = {**BYTES_FOLLOW, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert (await server.post(upload, headers=override, content=b"x")).status_code == 204
    assert await offset_of(server, upload) == 1
    nonsense = {**override, "X-HTTP-Method-Override": "RESPOND"}
    assert (await server.post(upload, headers=nonsense)).status_code == 405
    assert (await server.request("DELETE", upload, headers=TUS)).status_code == 204
    assert (await server.request("HEAD", upload, headers=TUS)).status_code == 404


async def test_nobody_uploads_or_downloads_without_a_token(server: RunningServer) -> None:
    upload = await begin(server, "secret.bin", 3)
    files = f"{API}/data/files?path=secret.bin"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as stranger:
        for method, where in (("HEAD", upload), ("PATCH", upload), ("GET", files)):
            headers = {**BYTES_FOLLOW, "Upload-Offset": "0"}
            content = b"abc" if method == "PATCH" else b""
            answer = await stranger.request(method, where, headers=headers, content=content)
            assert answer.status_code == 403
    assert await offset_of(server, upload) == 0


async def test_a_part_of_a_file_is_downloaded(server: RunningServer) -> None:
    upload = await begin(server, "ten.bin", 10)
    await send(server, upload, 0, b"0123456789")
    part = await download(server, "ten.bin", Range="bytes=3-5")
    assert (part.status_code, part.content) == (206, b"345")
    assert part.headers["Content-Range"] == "bytes 3-5/10"
    assert (await download(server, "ten.bin", Range="bytes=10-")).status_code == 416
    known = {"If-None-Match": part.headers["Etag"]}
    assert (await download(server, "ten.bin", **known)).status_code == 304
    assert (await download(server, "..")).status_code == 400
    assert (await download(server, "none")).status_code == 404


async def test_directories_are_made_and_listed(server: RunningServer) -> None:
    where = f"{API}/data/directories"
    for _ in range(2):
        made = await server.request("PUT", where, params={"path": "deep/er"})
        assert made.status_code == 204, made.text
    listed = (await server.get(where, params={"path": "deep"})).json()
    assert [(entry["name"], entry["kind"]) for entry in listed] == [("er", "directory")]
    assert (await server.get(where, params={"path": "none"})).status_code == 404


async def test_a_large_file_passes_through_flat_memory(server: RunningServer) -> None:
    """300 MiB, of which the server may never hold more than a little."""
    block, count = bytes(range(256)) * 4096, 300
    sizes = [resident_bytes(server.pid)]

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(count):
            sizes.append(resident_bytes(server.pid))
            yield block

    upload = await begin(server, "large.bin", count * len(block))
    assert (await send(server, upload, 0, blocks())).status_code == 204
    address = f"{server.url}{API}/data/files?path=large.bin"
    headers = {"Authorization": f"token {server.token}"}
    arrived = hashlib.sha256()
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", address, headers=headers) as answer,
    ):
        async for part in answer.aiter_raw(len(block)):
            arrived.update(part)
            sizes.append(resident_bytes(server.pid))
    assert arrived.hexdigest() == hashlib.sha256(block * count).hexdigest()
    assert max(sizes) - sizes[0] < 64 * MIB


async def test_commands_ask_the_running_server(server: RunningServer, tmp_path: Path) -> None:
    made = json.loads(await vfolder("create", "shell", "--json", env=server.env))
    assert made == {**(await server.get(f"{API}/shell")).json(), "usage": None}
    listed = await vfolder("ls", "--json", env=server.env)
    assert json.loads(listed) == (await server.get(f"{API}?status=ready&usage=true")).json()
    table = await vfolder("ls", env=server.env)
    assert any(line.startswith("shell ") for line in table.splitlines())
    assert "local (default)" in table
    source = tree(tmp_path / "tree")
    assert await vfolder("upload", source, "shell", env=server.env) == "2 files, 6 bytes.\n"
    file = await server.get(f"{API}/shell/files", params={"path": "tree/sub/ä.txt"})
    assert file.text == "there"
    await vfolder("download", "shell:tree", tmp_path / "back", env=server.env)
    assert same(source, tmp_path / "back")
    await vfolder("rm", "shell", env=server.env)
    await vfolder("restore", "shell", "--as", "again", env=server.env)
    await vfolder("rm", "again", env=server.env)
    assert "Nothing is left" in await vfolder("purge", "again", "--yes", env=server.env)
    assert "no folder 'again'" in await vfolder("info", "again", env=server.env, code=1)


async def test_commands_do_without_a_server(server: RunningServer, tmp_path: Path) -> None:
    beside = {**server.env, "JUPYTER_RUNTIME_DIR": str(server.root / "elsewhere")}
    await vfolder("create", "alone", env=beside)
    source = tree(tmp_path / "tree")
    assert await vfolder("upload", source, "alone", env=beside) == "2 files, 6 bytes.\n"
    seen = await server.get(f"{API}/alone/files", params={"path": "tree/a.txt"})
    assert seen.text == "h"
    await vfolder("download", "alone:tree", tmp_path / "back", env=beside)
    assert same(source, tmp_path / "back")
    ours = await vfolder("ls", "--json", env=beside)
    assert ours == await vfolder("ls", "--json", env=server.env)


async def test_a_command_goes_on_over_a_bad_connection(
    server: RunningServer, tmp_path: Path
) -> None:
    source, back = tmp_path / "content.bin", tmp_path / "back.bin"
    source.write_bytes(bytes(range(256)) * 4096 * 32)  # 32 MiB
    async with bad_connection(server, after=9 * MIB) as env:
        await vfolder("upload", source, "data", env=env)
    async with bad_connection(server, after=9 * MIB) as env:
        await vfolder("download", "data:content.bin", back, env=env)
    content = source.read_bytes()
    assert contents_of(tmp_path) == {"back.bin": content, "content.bin": content}
    assert "content.bin" not in str((await server.get(f"{API}/data/uploads")).json())


async def test_a_killed_command_goes_on_when_it_is_run_again(
    server: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "resumed.bin"
    source.write_bytes(b"0123456789abcdef" * MIB)  # 16 MiB

    async def half_there() -> str | None:
        uploads = (await server.get(f"{API}/data/uploads")).json()
        begun = (one for one in uploads if one["path"] == source.name and one["offset"] > 0)
        return next((str(one["id"]) for one in begun), None)

    async with bad_connection(server, after=5 * MIB, cuts=1, silent=True) as env:
        process = await started("upload", source, "data", env=env)
        upload = await eventually(half_there)
        process.kill()
        await process.communicate()
    await vfolder("upload", source, "data", env=server.env)
    # It is the first upload that is complete, and not another one that began anew.
    assert await offset_of(server, f"{API}/data/uploads/{upload}") == 16 * MIB
    assert (await download(server, source.name)).content == source.read_bytes()


def tree(top: Path) -> Path:
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "a.txt").write_text("h")
    (top / "sub" / "ä.txt").write_text("there")
    return top


def same(one: Path, other: Path) -> bool:
    return contents_of(one) == contents_of(other)


def contents_of(top: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in top.rglob("*")
    }


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the server has ended")
