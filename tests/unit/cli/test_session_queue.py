"""What is shown of sessions that wait, and what is asked for a new one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from backendai_jupyter.cli.session_create import meant, options, outcome
from backendai_jupyter.cli.session_queue import queue_rows, starts
from backendai_jupyter.cli.session_watch import exit_code, sentence
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.manager.scheduler.snapshot import Estimate, Placed, Waiting, Why
from backendai_jupyter.web import pending
from backendai_jupyter.web.dry_run import dry_run_of
from backendai_jupyter.web.models import SessionDetail, detail_of, session_of
from tests.records import make_session
from tests.unit.manager.scheduler.samples import session

NOON = datetime(2026, 11, 28, 12, 0).astimezone().timestamp()
WAITING = Waiting(session("s"), Why.ROOM, "No room.", 3, Slots(), Estimate(NOON + 600, NOON + 1200))


@pytest.mark.parametrize(
    ("earliest", "latest", "text"),
    [
        (600, 1200, "12:10 to 12:20"),
        (600, 610, "about 12:10"),
        (600, None, "not before 12:10"),
        (86400, None, "not before 2026-11-29 12:00"),
    ],
)
def test_an_estimate_is_said_in_words(earliest: float, latest: float | None, text: str) -> None:
    end = None if latest is None else NOON + latest
    said = pending.Estimate(earliest=NOON + earliest, latest=end)
    assert starts(said, now=NOON) == text


def test_a_row_of_the_queue_says_where_why_and_when() -> None:
    one = session_of(make_session("s", created_at=NOON - 60), WAITING)
    unknown = session_of(make_session("t", created_at=NOON - 60))
    assert queue_rows([one, unknown], now=NOON) == [
        ("default", "3", "s", "s", "cpu 1, mem 1 GiB", "1 minute", "12:10 to 12:20", "No room."),
        ("default", "", "t", "t", "cpu 1, mem 1 GiB", "1 minute", "", ""),
    ]


def test_only_what_was_said_is_asked_for() -> None:
    assert options(cpu=None, preset=None, priority=None, depends_on=()) == {}
    asked = options(cpu="2", more=["cuda.device=1"], group="gpu", depends_on=["a", "b"], priority=0)
    assert asked == {
        "resources": {"cpu": "2", "cuda.device": "1"},
        "resource_group": "gpu",
        "depends_on": ["a", "b"],
        "priority": 0,
    }
    with pytest.raises(InvalidInput, match=r"cuda\.device=1"):
        options(more=["cuda.device"])


@pytest.mark.parametrize(
    ("text", "whole"),
    [("abc1", "abc1-9"), ("abc", "abc"), ("abd", "abd"), ("nothing", "nothing")],
)
def test_the_beginning_of_an_id_is_meant_unless_it_is_a_name(text: str, whole: str) -> None:
    known = [session_of(make_session(name)) for name in ("abc1-9", "abc2-9", "abd2-9")]
    known.append(session_of(replace(make_session("x"), name="abd")))
    assert meant(text, known) == whole


def test_a_dry_run_is_said_in_words() -> None:
    placed = dry_run_of(Placed(session("s"), {"main1": "a"}))
    assert outcome(placed, now=NOON) == "It would start now: main1 on a."
    assert outcome(dry_run_of(WAITING), now=NOON) == (
        "It would wait. No room. It may start: 12:10 to 12:20 (in 10 minutes at the earliest)."
    )


def ended(status: Status, ending: Exit | None) -> SessionDetail:
    whole = make_session("s", status=status)
    return detail_of(replace(whole, kernels=(replace(whole.main, exit=ending),)), ())


def certificate(code: int) -> Exit:
    return Exit(reason=ExitReason.EXITED, message="The kernel program ended.", code=code)


@pytest.mark.parametrize(
    ("status", "ending", "code"),
    [
        (Status.TERMINATED, None, 0),
        (Status.TERMINATED, certificate(0), 0),
        (Status.TERMINATED, certificate(3), 1),
        (Status.CANCELLED, None, 1),
        (Status.ERROR, None, 1),
    ],
)
def test_the_end_is_the_exit_code(status: Status, ending: Exit | None, code: int) -> None:
    assert exit_code(ended(status, ending)) == code


def test_what_is_watched_is_a_line_for_each_state() -> None:
    waiting = detail_of(make_session("s"), (), WAITING)
    assert sentence(waiting, now=NOON).startswith("PENDING  No room. It may start: 12:10")
    over = ended(Status.TERMINATED, certificate(3))
    assert sentence(over, now=NOON) == "TERMINATED  The kernel program ended."
