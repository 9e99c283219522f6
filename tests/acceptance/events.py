"""The event stream of a server, as a client reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.helpers import eventually
from tests.server import RunningServer

PATH = "backendai/v1/events"


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    data: dict[str, Any]
    seen_at: float  # by time.time


class Events:
    """What has come so far."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.comments = 0
        self.content_type = ""

    @classmethod
    @asynccontextmanager
    async def follow(
        cls, server: RunningServer, *, last_id: str | None = None
    ) -> AsyncIterator[Events]:
        """Read until the block ends; begins when the first snapshot is there."""
        events = cls()
        reading = asyncio.create_task(events._read(server, last_id))
        try:
            await eventually(lambda: reading.done() or events.all)
            yield events
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return [event.data for event in self.all if event.kind == "session"]

    async def until(
        self, holds: Callable[[dict[str, Any]], bool], *, within_s: float = 20
    ) -> Event:
        """Return the first session event for whose data ``holds``."""

        def found() -> Event | None:
            matching = (e for e in self.all if e.kind == "session" and holds(e.data))
            return next(matching, None)

        event = await eventually(found, within_s=within_s)
        assert event is not None
        return event

    async def _read(self, server: RunningServer, last_id: str | None) -> None:
        headers = {"Authorization": f"token {server.token}"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        async with (
            httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client,
            client.stream("GET", PATH, headers=headers) as answer,
        ):
            answer.raise_for_status()
            self.content_type = answer.headers["Content-Type"]
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    data = json.loads(fields["data"])
                    event = Event(fields["event"], fields.get("id", ""), data, time.time())
                    self.all.append(event)
                    fields = {}
