"""Which ends are good ones."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from backendai_jupyter.domain.batch import Batch
from backendai_jupyter.domain.endings import is_of_the_agent, succeeded
from backendai_jupyter.domain.records import ComputeSession, Step
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from tests.records import make_session


def over(
    status: Status = Status.TERMINATED, *, exit: Exit | None = None, signal_num: int = 0
) -> ComputeSession:
    session = make_session("s", status=status)
    kernel = replace(session.main, exit=exit, signal_num=signal_num)
    return replace(session, kernels=(kernel,))


def ended(*, by: str, at: Status = Status.RUNNING) -> list[Step]:
    session = over()
    return [
        Step(session.main.id, None, Status.PENDING, "", session.owner, 1.0),
        Step(session.main.id, at, Status.TERMINATING, "", by, 2.0),
        Step(session.main.id, Status.TERMINATING, Status.TERMINATED, "", "agent a", 3.0),
    ]


def certificate(code: int, reason: ExitReason = ExitReason.EXITED) -> Exit:
    return Exit(reason=reason, message="It ended.", code=code)


@pytest.mark.parametrize("at", [Status.RUNNING, Status.RESTARTING])
def test_an_interactive_session_ends_well_when_its_owner_ends_it(at: Status) -> None:
    assert succeeded(over(), ended(by=over().owner, at=at))


@pytest.mark.parametrize(
    ("by", "at"),
    [
        pytest.param("batch check", Status.RUNNING, id="somebody else"),
        pytest.param(over().owner, Status.CREATING, id="before it ran"),
    ],
)
def test_an_end_that_is_not_its_owners_while_it_ran_is_no_good_one(by: str, at: Status) -> None:
    assert not succeeded(over(), ended(by=by, at=at))


@pytest.mark.parametrize(
    ("exit", "signal_num", "is_well"),
    [
        pytest.param(certificate(0), 0, True, id="by itself, with 0"),
        pytest.param(certificate(1), 0, False, id="by itself, with 1"),
        pytest.param(certificate(143, ExitReason.SIGNALLED), signal.SIGTERM, True, id="told to"),
        pytest.param(certificate(137, ExitReason.SIGNALLED), signal.SIGKILL, True, id="killed"),
        pytest.param(certificate(139, ExitReason.SIGNALLED), signal.SIGTERM, False, id="crashed"),
        pytest.param(certificate(137, ExitReason.OUT_OF_MEMORY), 0, False, id="out of memory"),
        pytest.param(
            Exit(reason=ExitReason.AGENT_LOST, message=""), 0, False, id="its agent was lost"
        ),
    ],
)
def test_the_certificate_of_its_program_decides(exit: Exit, signal_num: int, is_well: bool) -> None:
    session = over(exit=exit, signal_num=signal_num)
    assert succeeded(session, ended(by=session.owner)) is is_well


def test_a_batch_ends_well_when_it_is_done_and_not_when_its_owner_ends_it() -> None:
    batch = Batch(command=("true",))
    assert succeeded(replace(over(exit=certificate(0)), batch=batch), ())
    assert not succeeded(replace(over(exit=certificate(1)), batch=batch), ())
    assert not succeeded(replace(over(), batch=batch), ended(by=over().owner))


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.ERROR, Status.RUNNING])
def test_only_what_was_ended_has_ended_well(status: Status) -> None:
    assert not succeeded(over(status), ended(by=over().owner))


@pytest.mark.parametrize(
    ("step", "cause", "is_so"),
    [
        ("container", "", True),
        ("image", "no-space", True),
        ("image", "registry-away", True),
        ("image", "no-such-image", False),
        ("image", "not-let-in", False),
        ("answer", "", False),
    ],
)
def test_a_start_may_fail_for_a_reason_of_its_agent(step: str, cause: str, is_so: bool) -> None:
    ending = Exit(reason=ExitReason.STEP_FAILED, message="", step=step, cause=cause)
    assert is_of_the_agent(ending) is is_so


def test_what_ran_did_not_fail_for_a_reason_of_its_agent() -> None:
    assert not is_of_the_agent(certificate(1))
