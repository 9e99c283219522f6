"""A file as an answer: whole, in part, or not at all when the client has it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from backendai_jupyter.web.streaming import CHUNK_BYTES, FileStream

CONTENT = bytes(range(256)) * 12_000  # a few chunks


class Serving(web.RequestHandler):
    """Sends the file of the application's settings, as every user of ``FileStream`` does."""

    async def get(self) -> None:
        path: Path = self.settings["path"]
        fd = os.open(path, os.O_RDONLY)
        try:
            await FileStream(fd, os.fstat(fd), path.name).send(self)
        finally:
            os.close(fd)

    head = get


class Shrinking(web.RequestHandler):
    """Sends a file of which a program has just cut off the end."""

    async def get(self) -> None:
        path: Path = self.settings["path"]
        fd = os.open(path, os.O_RDWR)
        try:
            found = os.fstat(fd)
            os.ftruncate(fd, CHUNK_BYTES)
            await FileStream(fd, found, path.name).send(self)
        finally:
            os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ein Bär.csv"
    path.write_bytes(CONTENT)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.fixture
async def client(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    routes = [("/file", Serving), ("/shrinking", Shrinking)]
    server = HTTPServer(web.Application(routes, path=path))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    server.stop()
    await server.close_all_connections()


async def test_a_file_is_sent_whole_and_described(client: httpx.AsyncClient) -> None:
    answer = await client.get("/file")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename*=utf-8''ein%20B%C3%A4r.csv"
    )
    assert answer.headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_head_request_is_answered_with_the_same_headers(client: httpx.AsyncClient) -> None:
    got, head = await client.get("/file"), await client.head("/file")
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        pytest.param("bytes=0-0", slice(0, 1), id="the first byte"),
        pytest.param("bytes=5-9", slice(5, 10), id="some bytes"),
        pytest.param("bytes=1500000-", slice(1_500_000, None), id="the rest"),
        pytest.param("bytes=-7", slice(-7, None), id="the last bytes"),
        pytest.param("bytes=10-99999999", slice(10, None), id="more than there is"),
        pytest.param("bytes=-99999999", slice(0, None), id="more of the last than there is"),
    ],
)
async def test_a_range_is_sent_as_it_was_asked_for(
    client: httpx.AsyncClient, asked: str, part: slice
) -> None:
    answer = await client.get("/file", headers={"Range": asked})
    first, last = part.indices(len(CONTENT))[0], part.indices(len(CONTENT))[1] - 1
    assert (answer.status_code, answer.content) == (206, CONTENT[part])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", f"bytes={len(CONTENT)}-", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused(client: httpx.AsyncClient, asked: str) -> None:
    answer = await client.get("/file", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=9-5", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "x"])
async def test_a_range_that_is_not_understood_means_the_whole_file(
    client: httpx.AsyncClient, asked: str
) -> None:
    answer = await client.get("/file", headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


async def test_a_range_continues_only_the_version_that_the_client_has(
    client: httpx.AsyncClient, path: Path
) -> None:
    head = await client.head("/file")
    for known in (head.headers["Etag"], head.headers["Last-Modified"]):
        headers = {"Range": "bytes=3-4", "If-Range": known}
        assert (await client.get("/file", headers=headers)).status_code == 206
        os.utime(path, (1_100_000_000, 1_100_000_000))
        assert (await client.get("/file", headers=headers)).status_code == 200
        os.utime(path, (1_000_000_000, 1_000_000_000))


async def test_a_client_that_has_the_file_is_not_sent_it_again(client: httpx.AsyncClient) -> None:
    head = await client.head("/file")
    for known in (
        {"If-None-Match": head.headers["Etag"]},
        {"If-None-Match": f'"other", W/{head.headers["Etag"]}'},
        {"If-Modified-Since": head.headers["Last-Modified"]},
    ):
        answer = await client.get("/file", headers=known)
        assert (answer.status_code, answer.content) == (304, b"")
    for other in (
        {"If-None-Match": '"other"', "If-Modified-Since": head.headers["Last-Modified"]},
        {"If-Modified-Since": "Sat, 08 Sep 2001 00:00:00 GMT"},
        {"If-Modified-Since": "yesterday"},
    ):
        assert (await client.get("/file", headers=other)).status_code == 200


async def test_an_empty_file_is_sent_as_nothing(client: httpx.AsyncClient, path: Path) -> None:
    os.truncate(path, 0)
    assert (await client.get("/file")).headers["Content-Length"] == "0"
    assert (await client.get("/file", headers={"Range": "bytes=0-"})).status_code == 416


async def test_a_file_that_shrinks_meanwhile_is_not_said_to_be_complete(
    client: httpx.AsyncClient,
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/shrinking")
    assert (await client.get("/file")).status_code == 200
