"""How a session ended: well, so that what depends on it may start, or for which fault.  Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from backendai_jupyter.domain.batch import End
from backendai_jupyter.domain.batch_ends import end_of
from backendai_jupyter.domain.records import ComputeSession, Kernel, Step
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason

_UP = frozenset({Status.RUNNING, Status.RESTARTING})
_ASKED_TO_END = frozenset({signal.SIGTERM, signal.SIGKILL})
# Steps that an agent does before the user's program has any part in it, and what can go wrong
# there that would go wrong on any agent.
_STEPS_OF_AGENTS = frozenset({"image", "directories", "devices", "relay", "network", "container"})
_SAME_EVERYWHERE = frozenset({"no-such-image", "not-let-in"})


def succeeded(session: ComputeSession, history: Iterable[Step]) -> bool:
    """Whether a session that has ended ended well.

    A batch says so itself.  If its main program ended by itself, its exit code says so.  An
    interactive session has no end of its own: it ended well if its owner ended it, or had a
    server do so, while it ran.
    """
    main = session.main
    if session.batch is not None:
        return end_of(session) is End.DONE
    if session.status is not Status.TERMINATED:
        return False
    if main.exit is not None:
        return _ended_well(main.exit, main)
    return any(
        step.kernel_id == main.id
        and step.after is Status.TERMINATING
        and step.before in _UP
        and step.by == session.owner
        for step in history
    )


def is_of_the_agent(exit: Exit) -> bool:
    """Whether a start failed for a reason of its agent, so that another one may do better."""
    if exit.reason is not ExitReason.STEP_FAILED:
        return exit.reason is ExitReason.AGENT_LOST
    return exit.step in _STEPS_OF_AGENTS and exit.cause not in _SAME_EVERYWHERE


def _ended_well(exit: Exit, kernel: Kernel) -> bool:
    if exit.code == 0:
        return True
    was_told = kernel.signal_num in _ASKED_TO_END
    return was_told and exit.code == 128 + kernel.signal_num
