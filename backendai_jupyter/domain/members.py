"""The kernels of a session of several: what they are called, and who follows whose end.

``main1`` is the kernel that Jupyter starts; ``sub1`` and so on are beside it.  Until all have
been up at once the session is *starting together*: one that cannot start costs all of them
their place, and they are tried elsewhere.  From then on the session's failure policy says what
the end of one means for the others.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from backendai_jupyter.domain.batch_ends import is_tried_again
from backendai_jupyter.domain.cluster import MAIN, SUB, FailurePolicy
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import FINAL, Status, session_status
from backendai_jupyter.domain.wire import Exit, ExitReason, Membership

OVER = FINAL | {Status.TERMINATING}


def members(size: int) -> list[tuple[str, int]]:
    """Return role and index of each kernel of a session, in its order."""
    return [(MAIN, 1), *((SUB, idx) for idx in range(1, size))]


def membership(session: ComputeSession, kernel: Kernel) -> Membership | None:
    """Return a kernel's place among the others; None if there are none."""
    if len(session.kernels) == 1:
        return None
    return Membership(
        mode=session.cluster_mode,
        role=kernel.role,
        idx=kernel.idx,
        local_rank=session.kernels.index(kernel),
        hosts=tuple(k.hostname for k in session.kernels),
    )


def identity(session: ComputeSession, kernel: Kernel) -> dict[str, str]:
    """Return the variables by which a program in a kernel finds out where it runs."""
    subs = len(session.kernels) - 1
    return {
        "BACKENDAI_SESSION_ID": session.id,
        "BACKENDAI_KERNEL_ID": kernel.id,
        "BACKENDAI_CLUSTER_SIZE": str(len(session.kernels)),
        "BACKENDAI_CLUSTER_REPLICAS": f"{MAIN}:1,{SUB}:{subs}" if subs else f"{MAIN}:1",
        "BACKENDAI_CLUSTER_HOSTS": ",".join(k.hostname for k in session.kernels),
        "BACKENDAI_CLUSTER_HOST": kernel.hostname,
        "BACKENDAI_CLUSTER_ROLE": kernel.role,
        "BACKENDAI_CLUSTER_IDX": str(kernel.idx),
        "BACKENDAI_CLUSTER_LOCAL_RANK": str(session.kernels.index(kernel)),
    }


def with_startup(session: ComputeSession, kernel: Kernel) -> tuple[str, ...]:
    """Return a kernel's command so that it also starts the command of its role, beside it.

    That is a child of the kernel's program: it writes to the kernel's log, and it ends with the
    kernel and is started anew with it.
    """
    startup = session.startup.get(kernel.role)
    if not startup:
        return kernel.argv
    return ("/bin/sh", "-c", f'{shlex.join(startup)} </dev/null & exec "$@"', "sh", *kernel.argv)


def standing(session: ComputeSession, kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    """Return those of ``kernels`` that make the session's status.

    In a session that goes on degraded those that are left; else all.
    """
    if session.failure_policy is FailurePolicy.DEGRADED and session.started_at is not None:
        left = [k for k in kernels if k.status not in OVER]
        if any(k.role == MAIN for k in left):
            return left
    return kernels


def status_of(session: ComputeSession, kernels: Sequence[Kernel]) -> tuple[Status, str]:
    """Return the session's status with its kernels as they are now, and why it has it."""
    left = standing(session, kernels)
    status = session_status([kernel.status for kernel in left])
    if len(left) < len(kernels):
        gone = [k for k in kernels if k not in left]
        names = ", ".join(k.hostname for k in gone)
        reason = next((k.status_reason for k in gone if k.status_reason), "")
        return status, f"It goes on without {names}. {reason}".rstrip()
    reasons = [kernel.status_reason for kernel in left if kernel.status is status]
    return status, next((text for text in reasons if text), "")


def end_of_the_others(session: ComputeSession) -> Exit | None:
    """Return why the kernels that are left must end with one that has; None if they need not."""
    gone = [k for k in session.kernels if k.status in OVER]
    left = [k for k in session.kernels if k.status not in OVER]
    if not gone or not left:
        return None
    if all(k.status is Status.PENDING for k in left) and is_tried_again(session, session.main.exit):
        return None
    if len(standing(session, session.kernels)) < len(session.kernels):
        return None
    first = min(gone, key=lambda k: (k.role != MAIN, k.status_since))
    why = first.status_reason or (first.exit.message if first.exit else "")
    if session.started_at is None:
        message = f"{first.hostname} could not start, and without it none does. {why}".rstrip()
    else:
        message = f"{first.hostname} has ended, and the session ends with it. {why}".rstrip()
    ending = first.exit or Exit(reason=ExitReason.EXITED, message=message)
    # Not its exit code: that one kernel has ended well does not mean that another has.
    code = ending.code or None
    return ending.model_copy(update={"message": message, "code": code})


def taken_back(kernel: Kernel, exit: Exit, *, is_alone: bool) -> str:
    """Return the sentence for the history of a start that is tried again elsewhere."""
    where = f"could not start on agent {kernel.agent_id}"
    if is_alone:
        return f"It {where}, and is tried elsewhere. {exit.message}"
    return (
        f"{kernel.hostname} {where}, so all kernels of the session are tried elsewhere. "
        f"{exit.message}"
    )
