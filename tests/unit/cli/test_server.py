"""Which of the servers that left their address in the runtime directory is asked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.paths import jupyter_runtime_dir
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket

from backendai_jupyter.cli.server import Server, find_server
from backendai_jupyter.errors import BackendError, Unavailable

TOKEN = "t0ken"


class Ours(web.RequestHandler):
    def get(self) -> None:
        if self.request.headers.get("Authorization") != f"token {TOKEN}":
            raise web.HTTPError(403)
        self.finish({"id": "u", "name": "owner"})


class SomebodyElses(web.RequestHandler):
    """A Jupyter Server without our extension answers with a page."""

    def get(self) -> None:
        self.set_status(404)
        self.finish("<html>")


class Refusing(web.RequestHandler):
    def get(self) -> None:
        self.set_status(409)
        self.finish({"code": "conflict", "message": "It cannot be done now.", "reason": "conflict"})


Serve = Callable[..., Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve one kind of answer on a port of its own, below ``/base``."""
    servers: list[HTTPServer] = []

    async def start(handler: type[web.RequestHandler], *, sock: Path | None = None) -> int:
        server = HTTPServer(web.Application([(r"/base/backendai/v1/me", handler)]))
        sockets = [bind_unix_socket(str(sock))] if sock else bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        servers.append(server)
        return 0 if sock else int(sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.stop()
        await server.close_all_connections()


def announce(
    port: int = 0, *, name: str = "1", keep_bytes: int | None = None, **changes: Any
) -> None:
    """Write what a Jupyter Server writes when it starts."""
    folder = Path(jupyter_runtime_dir())
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/base/"
    info = {"url": url, "token": TOKEN, "pid": os.getpid(), "sock": "", "password": False}
    (folder / f"jpserver-{name}.json").write_text(json.dumps({**info, **changes})[:keep_bytes])


async def test_where_nothing_runs_nothing_is_found() -> None:
    assert await find_server() is None


async def test_a_server_of_ours_is_found_below_its_base_url(serve: Serve) -> None:
    announce(await serve(Ours))
    found = await find_server()
    assert found is not None
    assert json.loads(await found.ask("GET", "me")) == {"id": "u", "name": "owner"}


async def test_a_server_on_a_unix_socket_is_asked_there(serve: Serve, short_tmp_path: Path) -> None:
    sock = short_tmp_path / "sock"
    await serve(Ours, sock=sock)
    announce(url="http+unix://x/base/", sock=str(sock))
    found = await find_server()
    assert found is not None
    assert found.sock == str(sock)


async def test_a_server_without_our_extension_is_passed_over(serve: Serve) -> None:
    announce(await serve(SomebodyElses), name="1")
    port = await serve(Ours)
    announce(port, name="2")
    found = await find_server()
    assert found is not None
    assert f":{port}/" in found.url


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"token": "", "password": True}, id="a password only"),
        pytest.param({"token": "another"}, id="a token that it does not take"),
        pytest.param({"url": None}, id="no address"),
    ],
)
async def test_a_server_that_lets_nobody_in_is_passed_over(
    serve: Serve, changes: dict[str, Any]
) -> None:
    announce(await serve(Ours), **changes)
    assert await find_server() is None


async def test_what_a_dead_server_left_is_passed_over(serve: Serve) -> None:
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    announce(await serve(Ours), pid=dead.pid)
    assert await find_server() is None


async def test_a_file_that_is_half_written_is_passed_over() -> None:
    announce(keep_bytes=20)
    assert await find_server() is None


async def test_the_servers_own_sentence_is_what_is_raised(serve: Serve) -> None:
    port = await serve(Refusing)
    with pytest.raises(BackendError, match=r"^It cannot be done now\.$"):
        await Server(f"http://127.0.0.1:{port}/base/", TOKEN).ask("GET", "me")


async def test_a_server_that_went_away_is_named_without_its_token() -> None:
    server = Server("http://127.0.0.1:9/", TOKEN)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9") as caught:
        await server.ask("GET", "me")
    assert TOKEN not in f"{caught.value}{server!r}"
