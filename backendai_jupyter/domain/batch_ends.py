"""How a batch session has ended, and whether it is tried again.

Each attempt is one generation of its kernels.  It ends as its main kernel does, with an ``Exit``
that says why; without one somebody has asked for its end.  Kernels that are gone wait for the
others, so that all of them begin the next attempt together.
"""

from __future__ import annotations

from backendai_jupyter.domain.batch import End
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import Exit, ExitReason, Phase

RUN_TIMED_OUT = "run-timed-out"  # the ``cause`` of an exit: not its start took too long, its run


def end_of_exit(ending: Exit | None) -> End:
    """Return how an attempt has ended whose kernel is gone."""
    if ending is None:
        return End.CANCELLED
    match ending.reason:
        case ExitReason.AGENT_LOST:
            return End.AGENT_LOST
        case ExitReason.STEP_FAILED:
            return End.START_FAILED
        case ExitReason.TIMED_OUT:
            return End.TIMED_OUT if ending.cause == RUN_TIMED_OUT else End.START_FAILED
        case ExitReason.EXITED if ending.code == 0:
            return End.DONE
        case _:
            return End.FAILED


def end_of(session: ComputeSession) -> End | None:
    """Return how a batch session has ended, or is ending; None while it waits or runs."""
    match session.status:
        case Status.CANCELLED:
            return End.CANCELLED
        case Status.ERROR:
            return End.START_FAILED
        case Status.TERMINATED | Status.TERMINATING:
            return None if is_tried_again(session, session.main.exit) else _last_end(session)
        case _:
            return None


def is_tried_again(session: ComputeSession, ending: Exit | None) -> bool:
    """Whether another attempt follows one that has ended so."""
    batch = session.batch
    if batch is None or session.retries_left < 1:
        return False
    if any(kernel.status in FINAL for kernel in session.kernels):
        return False
    return end_of_exit(ending) in batch.retry_on


def status_after(
    session: ComputeSession, kernel: Kernel, phase: Phase, ending: Exit | None
) -> Status | None:
    """Return where a report that a program of a batch is not running moves it; None: as any."""
    if session.batch is None or ending is None:
        return None
    is_over = phase is Phase.EXITED and kernel.id == session.main.id
    if is_over or (phase is Phase.FAILED and is_tried_again(session, ending)):
        return Status.TERMINATING  # nothing starts it again in its place
    return None


def attempts_of(session: ComputeSession) -> int:
    """Return how many attempts there may be in all."""
    return 1 if session.batch is None else session.batch.retries + 1


def why_again(session: ComputeSession, kernel: Kernel) -> str:
    """Return the sentence for the history of a kernel that is to be tried again."""
    which = f"Attempt {kernel.generation} of {attempts_of(session)}"
    return f"{which} ended: {kernel.status_reason} The next one waits for its turn."


def _last_end(session: ComputeSession) -> End:
    return end_of_exit(session.main.exit)
