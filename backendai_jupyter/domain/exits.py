"""Say in words why a kernel program is not running."""

from __future__ import annotations

import signal

from backendai_jupyter.domain.resources import Slots, amount_for_people
from backendai_jupyter.domain.wire import Exit, ExitReason


def explain_exit(
    *, exit_code: int, oom_killed: bool, limits: Slots, log_tail: str, asked_to: int | None = None
) -> Exit:
    """Return the death certificate of a program that ran.

    ``exit_code`` is 128 + n for signal n; ``asked_to`` is the signal that the owner had
    sent to end it, if any.
    """
    if oom_killed:
        limit = amount_for_people("mem", limits["mem"])
        message = (
            f"The kernel ran out of memory: it was killed at its limit of {limit}. "
            "Ask for more memory, or work on less data at a time."
        )
        return Exit(
            reason=ExitReason.OUT_OF_MEMORY, code=exit_code, message=message, log_tail=log_tail
        )
    if exit_code > 128:
        name = _signal_name(exit_code - 128)
        by = "as its owner asked" if asked_to == exit_code - 128 else "unexpectedly"
        message = f"The kernel was ended by {name}, {by}."
        return Exit(reason=ExitReason.SIGNALLED, code=exit_code, message=message, log_tail=log_tail)
    message = "The kernel program ended"
    message += "." if exit_code == 0 else f" with exit code {exit_code}."
    return Exit(reason=ExitReason.EXITED, code=exit_code, message=message, log_tail=log_tail)


def explain_failed_step(step: str, problem: str, log_tail: str = "", *, cause: str = "") -> Exit:
    """Return the certificate of a program that could not be started."""
    message = f"The kernel could not start: step {step!r} failed. {problem}"
    reason = ExitReason.STEP_FAILED
    return Exit(reason=reason, message=message, step=step, cause=cause, log_tail=log_tail)


def with_last_lines(ending: Exit, *, lines: int = 10) -> str:
    """Return the message followed by the last lines of the program's log, if it has any."""
    tail = _without_greeting(ending.log_tail.strip().splitlines())[-lines:]
    if not tail:
        return ending.message
    return "\n".join(
        [ending.message, "The last lines of its log:", *(f"  {line}" for line in tail)]
    )


def _without_greeting(lines: list[str]) -> list[str]:
    """ipykernel begins its log with advice for a terminal, which ends in ``--existing FILE``."""
    ends = [i for i, line in enumerate(lines) if line.strip().startswith("--existing ")]
    return lines[ends[-1] + 1 :] if ends else lines


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
