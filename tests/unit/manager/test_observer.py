"""What a report means for a row: pure decisions."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import TRANSITIONS, Status
from backendai_jupyter.domain.wire import AgentReport, Exit, ExitReason, KernelReport, Phase
from backendai_jupyter.manager.observer import Move, decide
from tests.records import make_kernel

DEAD = Exit(reason=ExitReason.OUT_OF_MEMORY, code=137, message="out of memory")


def report(*kernels: KernelReport, revision: int = 1) -> AgentReport:
    return AgentReport(
        agent_id="a", revision=revision, version="1", capacity=Slots(), kernels=kernels
    )


def seen(phase: Phase, *, generation: int = 1, ending: Exit | None = None) -> AgentReport:
    return report(KernelReport(kernel_id="k", generation=generation, phase=phase, exit=ending))


@pytest.mark.parametrize(
    ("status", "phase", "to"),
    [
        (Status.SCHEDULED, Phase.PREPARING, Status.PREPARING),
        (Status.SCHEDULED, Phase.RUNNING, Status.RUNNING),
        (Status.CREATING, Phase.RUNNING, Status.RUNNING),
        (Status.RUNNING, Phase.EXITED, Status.RESTARTING),
        (Status.CREATING, Phase.FAILED, Status.ERROR),
        (Status.RESTARTING, Phase.RUNNING, Status.RUNNING),
    ],
)
def test_a_phase_moves_the_row(status: Status, phase: Phase, to: Status) -> None:
    move = decide(make_kernel(status=status), seen(phase), None)
    assert move is not None
    assert move.to is to


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (Status.RUNNING, Phase.RUNNING),
        (Status.RUNNING, Phase.CREATING),
        (Status.RESTARTING, Phase.CREATING),
        (Status.TERMINATED, Phase.RUNNING),
        (Status.RUNNING, Phase.STOPPING),
    ],
)
def test_a_late_or_repeated_phase_changes_nothing(status: Status, phase: Phase) -> None:
    """F2, F31: a report that comes late or twice moves nothing."""
    assert decide(make_kernel(status=status), seen(phase), None) is None


def test_what_is_said_of_an_older_generation_changes_nothing() -> None:
    kernel = make_kernel(status=Status.RESTARTING, generation=2)
    assert decide(kernel, seen(Phase.RUNNING, generation=1), None) is None


def test_the_reason_of_a_death_comes_along() -> None:
    move = decide(make_kernel(status=Status.RUNNING), seen(Phase.EXITED, ending=DEAD), None)
    assert move == Move(Status.RESTARTING, "out of memory", DEAD)


def test_a_kernel_is_gone_only_when_its_agent_knew_that_it_should_be() -> None:
    kernel = make_kernel(status=Status.TERMINATING)
    assert decide(kernel, report(revision=4), 5) is None  # has not taken note yet
    assert decide(kernel, report(revision=5), None) is None  # was not told yet
    assert decide(kernel, seen(Phase.STOPPING), 1) is None  # still there
    move = decide(kernel, report(revision=5), 5)
    assert move is not None
    assert move.to is Status.TERMINATED


def test_silence_changes_nothing() -> None:
    """F32: an agent of which nothing is heard has lost no kernel."""
    assert decide(make_kernel(status=Status.RUNNING), None, 1) is None
    assert decide(make_kernel(status=Status.RUNNING), report(), 1) is None


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("phase", list(Phase))
def test_no_report_asks_for_an_illegal_move(status: Status, phase: Phase) -> None:
    move = decide(make_kernel(status=status), seen(phase), 0)
    assert move is None or move.to in TRANSITIONS[status]
