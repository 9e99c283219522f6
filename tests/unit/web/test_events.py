"""What a client of the event stream gets, however slow it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.manager.board import Board, Notice
from backendai_jupyter.provisioning.changes import Changes
from backendai_jupyter.web import events
from backendai_jupyter.web.events import Subscriber
from tests.helpers import eventually

ADA = Viewer("ada")


class Stream:
    """A board, a subscriber to its changes, and what that one was sent, taken apart."""

    def __init__(self, *, after: int | None = None) -> None:
        self.board = Board()
        self.changes = Changes(self.board, asyncio.get_running_loop())
        self.subscriber = Subscriber(self.changes, ADA, after=after)

    async def post(self, kernel_id: str, status: Status, *, owner: str = "ada") -> None:
        notice = Notice(kernel_id, status, "", generation=1, session_id=kernel_id, owner=owner)
        everyone = Viewer("", sees_everything=True)
        self.changes.take([notice])
        await eventually(
            lambda: notice in [c.notice for c in self.changes.known(everyone, after=0)]
        )

    async def sent(self) -> list[tuple[str, Any]]:
        text = await self.subscriber.next_text()
        assert text is not None
        return list(taken_apart(text))


def taken_apart(text: str) -> Iterator[tuple[str, Any]]:
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        data = json.loads(fields["data"])
        if fields["event"] == "session":
            data = (data["session_id"], data["status"])
        yield fields["event"], data


async def test_it_begins_with_what_lives_and_goes_on_with_changes() -> None:
    stream = Stream()
    await stream.post("old", Status.TERMINATED)
    await stream.post("k", Status.RUNNING)
    assert await stream.sent() == [
        ("snapshot", {"session_ids": ["k"]}),
        ("session", ("k", "RUNNING")),
    ]
    await stream.post("k", Status.RESTARTING)
    await stream.post("k", Status.TERMINATING)
    assert await stream.sent() == [
        ("session", ("k", "RESTARTING")),
        ("session", ("k", "TERMINATING")),
    ]


async def test_what_others_own_is_not_there() -> None:
    stream = Stream()
    await stream.post("k", Status.RUNNING, owner="bob")
    assert await stream.sent() == [("snapshot", {"session_ids": []})]
    await stream.post("k", Status.TERMINATED, owner="bob")
    await stream.post("mine", Status.PENDING)
    assert await stream.sent() == [("session", ("mine", "PENDING"))]


async def test_a_client_too_slow_gets_a_new_snapshot_with_the_ends_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "MAX_WAITING", 3)
    stream = Stream()
    await stream.post("a", Status.RUNNING)
    await stream.sent()
    await stream.post("a", Status.TERMINATED)
    for status in (Status.PENDING, Status.SCHEDULED, Status.CREATING, Status.RUNNING):
        await stream.post("b", status)
    assert await stream.sent() == [
        ("snapshot", {"session_ids": ["b"]}),
        ("session", ("a", "TERMINATED")),
        ("session", ("b", "RUNNING")),
    ]


async def test_silence_is_broken_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.01)
    stream = Stream()
    await stream.sent()
    text = await stream.subscriber.next_text()
    assert text is not None
    assert text.startswith(": ")


async def test_a_client_that_went_away_is_told_nothing_and_kept_nowhere() -> None:
    """F62: neither a listener nor what would have been sent to it stays."""
    stream = Stream()
    await stream.sent()
    stream.subscriber.close()
    await stream.post("k", Status.RUNNING)
    assert await stream.subscriber.next_text() is None
    assert stream.changes._listeners == []


async def test_who_comes_back_gets_what_ended_after_the_last_event_that_he_had() -> None:
    stream = Stream()
    for name in ("a", "b"):
        await stream.post(name, Status.RUNNING)
    last = stream.changes.known(ADA)[-1].id
    stream.subscriber.close()
    await stream.post("a", Status.TERMINATED)
    stream.subscriber = Subscriber(stream.changes, ADA, after=last)
    assert await stream.sent() == [
        ("snapshot", {"session_ids": ["b"]}),
        ("session", ("b", "RUNNING")),
        ("session", ("a", "TERMINATED")),
    ]


async def test_it_ends_with_the_client_and_with_the_server() -> None:
    stream = Stream()
    await stream.sent()
    stream.changes.close()
    assert await stream.subscriber.next_text() is None
    assert await stream.subscriber.next_text() is None
    stream.subscriber.close()
