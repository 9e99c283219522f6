"""What a dry run is asked and answers, and what is said of a session that waits."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.scheduler.snapshot import Placed, Waiting, Why
from backendai_jupyter.web.dry_run import NewSession, SessionOptions, dry_run_of
from backendai_jupyter.web.models import session_of
from backendai_jupyter.web.operation import read_body, read_query
from tests.records import make_session
from tests.unit.manager.scheduler.samples import session

WAITING = Waiting(session("s", group="gpu"), Why.ROOM, "No room.", 3, Slots({"cpu": "0.5"}))  # type: ignore[dict-item]
PENDING = {
    "why": "room",
    "reason": "No room.",
    "position": 3,
    "shortfall": {"cpu": "0.5"},
    "estimate": None,
}


def test_it_says_which_agents_or_what_is_lacking() -> None:
    placed = dry_run_of(Placed(session("s", group="gpu"), {"main1": "a"}))
    assert placed.model_dump() == {
        "resource_group": "gpu",
        "agents": {"main1": "a"},
        "pending": None,
    }
    assert dry_run_of(WAITING).model_dump() == {
        "resource_group": "gpu",
        "agents": {},
        "pending": PENDING,
    }


def test_a_session_says_where_it_stands_only_while_it_waits() -> None:
    waiting = session_of(make_session("s"), WAITING).model_dump()
    assert waiting["pending"] == PENDING
    assert (waiting["resource_group"], waiting["priority"], waiting["not_before"]) == (
        "default",
        10,
        0,
    )
    assert session_of(make_session("s")).pending is None
    assert session_of(make_session("s", status=Status.SCHEDULED), WAITING).pending is None


def test_its_query_and_body_are_read_strictly() -> None:
    assert read_query(SessionOptions, {"dry_run": [b"true"]}).dry_run
    assert read_body(NewSession, b"") == NewSession()
    with pytest.raises(InvalidInput, match="dry_run"):
        read_query(SessionOptions, {"dry_run": [b"perhaps"]})
    with pytest.raises(InvalidInput, match="image"):
        read_body(NewSession, b'{"image": "python"}')
