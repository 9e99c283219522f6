"""What becomes of requests that are under way when the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import httpx
import pytest
from tornado import web, websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from backendai_jupyter.web import last_requests
from backendai_jupyter.web.last_requests import end_requests


class Brief(web.RequestHandler):
    """Answers as soon as it may."""

    async def get(self) -> None:
        self.settings["begun"].set()
        await self.settings["may_end"].wait()
        self.write("done")


class Endless(web.RequestHandler):
    """Never answers."""

    async def get(self) -> None:
        self.settings["begun"].set()
        await asyncio.Event().wait()


class InThread(web.RequestHandler):
    """Works in one thread of AnyIO's after the other, as the lists of exporters are made."""

    async def get(self) -> None:
        self.settings["begun"].set()
        try:
            while True:
                await anyio.to_thread.run_sync(lambda: None)
        finally:
            self.settings["has_ended"].set()


class Open(websocket.WebSocketHandler):
    """A websocket that somebody uses."""

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Server:
    """An HTTP server with all of these."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.has_ended = (asyncio.Event() for _ in range(3))
        routes: list[Any] = [("/brief", Brief), ("/endless", Endless), ("/thread", InThread)]
        routes.append(("/websocket", Open))
        events: dict[str, Any] = {
            "begun": self.begun,
            "may_end": self.may_end,
            "has_ended": self.has_ended,
        }
        self.http = HTTPServer(web.Application(routes, **events))
        sockets = bind_sockets(0, "127.0.0.1")
        self.http.add_sockets(sockets)
        self.address = f"127.0.0.1:{sockets[0].getsockname()[1]}"

    async def asked(self, path: str) -> asyncio.Task[httpx.Response]:
        """Return a request once it is under way."""
        self.begun.clear()
        task = asyncio.create_task(self._get(path))
        await self.begun.wait()
        return task

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://{self.address}{path}")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    server.http.stop()
    await server.http.close_all_connections()


async def test_a_request_that_ends_soon_is_answered(server: Server) -> None:
    asked = await server.asked("/brief")
    ending = asyncio.create_task(end_requests(server.http))
    server.may_end.set()
    await ending
    assert (await asked).text == "done"


async def test_one_that_never_ends_is_cut_off_by_name(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(last_requests, "_FINISH_S", 0.05)
    asked = await server.asked("/endless")
    with caplog.at_level(logging.WARNING):
        await end_requests(server.http)
    assert caplog.messages[0] == "GET /endless was cut off: the server stops."
    with pytest.raises(httpx.TransportError):
        await asked


async def test_one_that_works_in_threads_has_ended_when_the_loop_may_stop(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_requests, "_FINISH_S", 0.05)
    asked = await server.asked("/thread")
    await end_requests(server.http)
    assert server.has_ended.is_set()
    with pytest.raises(httpx.TransportError):
        await asked


async def test_a_websocket_stays_open(server: Server) -> None:
    client = await websocket.websocket_connect(f"ws://{server.address}/websocket")
    await end_requests(server.http)
    await client.write_message("still here")
    assert await client.read_message() == "still here"
    client.close()


async def test_without_a_server_there_is_nothing_to_wait_for() -> None:
    await end_requests(None)
