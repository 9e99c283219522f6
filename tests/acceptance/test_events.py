"""The event stream: what lives, then every change, for as many clients as like to listen."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from backendai_jupyter.web.event_log import SCHEMA_ID
from tests.acceptance.channels import started
from tests.acceptance.events import PATH, Events
from tests.helpers import eventually
from tests.server import RunningServer

PROCESS = "c.BackendAIAgent.runtime = 'process'\n"


@pytest.fixture
async def server(short_tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with RunningServer(short_tmp_path, config=PROCESS) as running:
        yield running


async def test_a_start_and_an_end_are_told_phase_by_phase(server: RunningServer) -> None:
    async with Events.follow(server) as events:
        assert events.content_type == "text/event-stream"
        assert [(e.kind, e.data) for e in events.all] == [("snapshot", {"session_ids": []})]
        kernel_id = await started(server)
        await events.until(lambda d: d["status"] == "RUNNING")
        await server.delete(f"api/kernels/{kernel_id}")
        await events.until(lambda d: d["status"] == "TERMINATED")
        told = [(d["status"], d["step"]) for d in events.sessions]
        assert told[0] == ("PENDING", "")
        assert ("CREATING", "answer") in told
        assert {d["session_id"] for d in events.sessions} == {kernel_id}
        assert {d["jupyter_kernel_id"] for d in events.sessions} == {kernel_id}
        assert all(d["reason"] for d in events.sessions if d["status"] != "RUNNING")
        ids = [int(e.id) for e in events.all if e.kind == "session"]
        assert ids == sorted(set(ids))


async def test_who_comes_later_begins_with_what_lives(server: RunningServer) -> None:
    ended, lives = await started(server), await started(server)
    async with Events.follow(server) as first:
        last_id = (await first.until(lambda d: d["session_id"] == lives)).id
    await server.delete(f"api/kernels/{ended}")
    async with Events.follow(server) as events:
        assert events.all[0].data == {"session_ids": [lives]}
        assert [d["session_id"] for d in events.sessions] == [lives]
    async with Events.follow(server, last_id=last_id) as events:
        assert events.all[0].data == {"session_ids": [lives]}
        missed = await events.until(lambda d: d["session_id"] == ended)
        assert missed.data["status"] == "TERMINATED"
        assert int(missed.id) > int(last_id)


async def test_a_malformed_position_is_refused(server: RunningServer) -> None:
    answer = await server.get(PATH, headers={"Last-Event-ID": "yesterday"})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.json()["message"]


async def test_clients_that_are_slow_or_gone_cost_nothing(server: RunningServer) -> None:
    """F62: also the one that never reads, and the server stops with all of them."""
    port = int(server.url.split(":")[2].split("/")[0])
    request = f"GET /{PATH}?token={server.token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for connection in silent:
        connection.sendall(request)
        assert await asyncio.to_thread(connection.recv, 20) == b"HTTP/1.1 200 OK\r\nSer"
    for connection in silent[:10]:
        connection.close()
    async with Events.follow(server) as events:
        await started(server)
        await events.until(lambda d: d["status"] == "RUNNING")
    server.signal(15)
    assert await server.wait() == 0
    for connection in silent[10:]:
        connection.close()
    assert "was destroyed but it is pending" not in server.log
    assert "Traceback" not in server.log


async def test_jupyters_own_event_stream_has_them_too(server: RunningServer) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}api/events/subscribe"
    headers = {"Authorization": f"token {server.token}"}
    connection = await websocket_connect(HTTPRequest(url, headers=headers))
    kernel_id = await started(server)
    told = []

    async def running() -> bool:
        text = await connection.read_message()
        assert isinstance(text, str)
        event = json.loads(text)
        if event["schema_id"] == SCHEMA_ID:
            told.append((event["session_id"], event["status"]))
        return (kernel_id, "RUNNING") in told

    await eventually(running)
    assert (kernel_id, "CREATING") in told
    connection.close()
    while await connection.read_message() is not None:
        """Until the server has closed its side, the socket is not."""
