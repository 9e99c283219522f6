"""Records with everything filled in that a test does not care about."""

from __future__ import annotations

from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Mount

SMALL = Slots({"cpu": 1, "mem": 1024**3})


def make_kernel(
    kernel_id: str = "k",
    *,
    status: Status = Status.PENDING,
    slots: Slots = SMALL,
    image: str = "python",
    generation: int = 1,
    agent_id: str | None = None,
    status_since: float = 0.0,
    mounts: tuple[Mount, ...] = (),
) -> Kernel:
    return Kernel(
        id=kernel_id,
        session_id=kernel_id,
        owner="u",
        role="main",
        idx=1,
        status=status,
        status_reason="",
        status_since=status_since,
        agent_id=agent_id,
        generation=generation,
        signal_seq=0,
        signal_num=0,
        image=image,
        argv=("python",),
        env={},
        slots=slots,
        mounts=mounts,
        workdir="/home/work",
        exit=None,
    )


def make_session(
    session_id: str = "s",
    *,
    status: Status = Status.PENDING,
    slots: Slots = SMALL,
    image: str = "python",
    priority: int = 10,
    created_at: float = 0.0,
    mounts: tuple[Mount, ...] = (),
) -> ComputeSession:
    """A session with one kernel, which has the session's id."""
    kernel = make_kernel(session_id, status=status, slots=slots, image=image, mounts=mounts)
    return ComputeSession(
        id=session_id,
        owner="u",
        name=session_id,
        cluster_id="c",
        kernelspec="backendai-python",
        priority=priority,
        status=status,
        status_reason="",
        created_at=created_at,
        ended_at=None,
        kernels=(kernel,),
    )
