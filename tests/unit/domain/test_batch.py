"""Batch sessions as data: time limits, ends, and which of them are tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backendai_jupyter.domain.batch import Batch, End, order_of, read_timeout
from backendai_jupyter.domain.batch_ends import (
    RUN_TIMED_OUT,
    end_of,
    end_of_exit,
    is_tried_again,
    status_after,
)
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Assignment, Exit, ExitReason, Phase
from backendai_jupyter.errors import InvalidInput
from tests.records import make_session

FAILED = Exit(reason=ExitReason.EXITED, code=1, message="no")


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [(None, None), (90, 90.0), ("90", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), (0.5, 0.5)],
)
def test_a_time_limit_is_read(raw: object, seconds: float | None) -> None:
    """F44: none is none."""
    assert read_timeout(raw, field="timeout") == seconds


@pytest.mark.parametrize("raw", [0, "0s", -1, "soon", True, float("inf"), float("nan"), []])
def test_a_time_limit_that_is_none_or_nothing_is_refused(raw: object) -> None:
    """F44: zero is not taken for no limit, nor no limit for zero."""
    with pytest.raises(InvalidInput, match="timeout"):
        read_timeout(raw, field="timeout")


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (None, End.CANCELLED),
        (FAILED, End.FAILED),
        (FAILED.model_copy(update={"code": 0}), End.DONE),
        (FAILED.model_copy(update={"code": None}), End.FAILED),
        (Exit(reason=ExitReason.OUT_OF_MEMORY, message="", code=137), End.FAILED),
        (Exit(reason=ExitReason.AGENT_LOST, message=""), End.AGENT_LOST),
        (Exit(reason=ExitReason.STEP_FAILED, message="", step="ready"), End.START_FAILED),
        (Exit(reason=ExitReason.TIMED_OUT, message="", step="ready"), End.START_FAILED),
        (Exit(reason=ExitReason.TIMED_OUT, message="", cause=RUN_TIMED_OUT), End.TIMED_OUT),
    ],
)
def test_an_exit_says_which_end_it_is(ending: Exit | None, end: End) -> None:
    """F46: no two ends are told the same."""
    assert end_of_exit(ending) is end


def test_an_end_is_tried_again_while_attempts_are_left_and_it_is_one_of_those() -> None:
    session = replace(make_session(), batch=Batch(retries=1), retries_left=1)
    assert is_tried_again(session, FAILED)
    assert not is_tried_again(session, None)
    assert not is_tried_again(session, FAILED.model_copy(update={"code": 0}))
    assert not is_tried_again(replace(session, retries_left=0), FAILED)
    only_lost = replace(session, batch=Batch(retries=1, retry_on=(End.AGENT_LOST,)))
    assert not is_tried_again(only_lost, FAILED)
    assert not is_tried_again(replace(session, batch=None), FAILED)


def test_an_end_that_another_attempt_follows_is_none_yet() -> None:
    session = replace(make_session(status=Status.TERMINATING), batch=Batch(), retries_left=0)
    ended = replace(session, kernels=(replace(session.main, exit=FAILED),))
    assert end_of(ended) is End.FAILED
    assert end_of(replace(ended, retries_left=1)) is None
    assert end_of(replace(ended, status=Status.RUNNING)) is None
    assert end_of(replace(ended, status=Status.ERROR)) is End.START_FAILED


def test_a_program_that_ended_is_not_waited_for() -> None:
    session = replace(make_session(), batch=Batch(), retries_left=0)
    assert status_after(session, session.main, Phase.EXITED, FAILED) is Status.TERMINATING
    assert status_after(session, session.main, Phase.FAILED, FAILED) is None
    assert status_after(session, session.main, Phase.RUNNING, None) is None
    again = replace(session, retries_left=1)
    assert status_after(again, session.main, Phase.FAILED, FAILED) is Status.TERMINATING
    assert status_after(make_session(), session.main, Phase.EXITED, FAILED) is None


def test_what_is_asked_for_and_told_comes_back_from_its_text() -> None:
    batch = Batch(
        notebook="/n", parameters={"a": [1, None]}, timeout_s=None, retry_on=(End.FAILED,)
    )
    assert Batch.model_validate_json(batch.model_dump_json()) == batch
    order = order_of(batch, attempt=2, go=True)
    assert (order.notebook, order.attempt, order.go, order.timeout_s) == ("/n", 2, True, None)
    text = '{"kernel_id": "k", "session_id": "s", "owner": "u", "generation": 1, "image": "i",'
    text += '"argv": [], "env": {}, "limits": {}}'
    assert Assignment.model_validate_json(text).batch is None
