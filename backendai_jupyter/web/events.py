"""``/backendai/v1/events``: every change of a session, as server-sent events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from jupyter_server.auth.decorator import authorized
from pydantic import Field
from tornado import web
from tornado.iostream import StreamClosedError

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.provisioning.changes import Change, Changes
from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.event_models import EventStream, SnapshotEvent, event_of
from backendai_jupyter.web.models import Model
from backendai_jupyter.web.operation import operation

KEEP_ALIVE_S = 15.0
MAX_WAITING = 1000  # changes that wait for one client; beyond, it gets a new snapshot


class EventHeaders(Model):
    """Where a client that comes back had stopped."""

    last_event_id: int | None = Field(default=None, alias="Last-Event-ID")


class EventsHandler(BackendHandler):
    _subscriber: Subscriber | None = None

    @web.authenticated
    @authorized
    @operation(returns=EventStream, headers=EventHeaders)
    async def get(self, headers: EventHeaders) -> None:
        """Follow the sessions, as server-sent events."""
        self.set_header("Content-Type", EventStream.media_type)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")  # nginx would keep events back
        changes: Changes = self.settings["backendai_changes"]
        self._subscriber = Subscriber(changes, self.viewer, after=headers.last_event_id)
        try:
            while (text := await self._subscriber.next_text()) is not None:
                self.write(text)
                await self.flush()
        except StreamClosedError:
            return
        finally:
            self._subscriber.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._subscriber is not None:
            self._subscriber.close()


class Subscriber:
    """One client of the stream; what waits for it is bounded, however slow it is."""

    def __init__(self, changes: Changes, viewer: Viewer, *, after: int | None = None) -> None:
        self._changes = changes
        self._viewer = viewer
        self._after = after
        self._waiting: deque[Change] = deque()
        self._has_lost_track = True  # so that it begins with a snapshot
        self._closed = False
        self._wake = asyncio.Event()
        self._wake.set()
        changes.listen(self._take, on_close=self.close)

    def close(self) -> None:
        """End the stream; idempotent."""
        self._closed = True
        self._changes.leave(self._take)
        self._wake.set()

    async def next_text(self) -> str | None:
        """Return what is to be sent next; None when the stream has ended.

        That is a comment where nothing has happened for ``KEEP_ALIVE_S``.
        """
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await self._wake.wait()
        except TimeoutError:
            return ": nothing has changed\n\n"
        if self._closed:
            return None
        self._wake.clear()
        if self._has_lost_track:
            return self._snapshot()
        texts = [self._text(change) for change in self._waiting]
        self._waiting.clear()
        return "".join(texts)

    def _take(self, changes: Sequence[Change]) -> None:
        seen = [change for change in changes if self._viewer.may_see(change.notice.owner)]
        if not seen:
            return
        self._waiting.extend(seen)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.clear()
            self._has_lost_track = True
        self._wake.set()

    def _snapshot(self) -> str:
        self._has_lost_track = False
        self._waiting.clear()
        known = self._changes.known(self._viewer, after=self._after)
        live = dict.fromkeys(change.notice.session_id for change in known if change.is_live)
        named = SnapshotEvent(session_ids=list(live))
        first = f"event: snapshot\ndata: {named.model_dump_json()}\n\n"
        return first + "".join(self._text(change) for change in known)

    def _text(self, change: Change) -> str:
        self._after = change.id
        return f"event: session\nid: {change.id}\ndata: {event_of(change).model_dump_json()}\n\n"


routes: list[tuple[str, type[BackendHandler]]] = [(r"/backendai/v1/events", EventsHandler)]
