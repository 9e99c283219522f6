"""Between rows and records: rows never leave ``store``, frozen records do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from backendai_jupyter.domain.batch import Batch
from backendai_jupyter.domain.cluster import MAIN, FailurePolicy
from backendai_jupyter.domain.members import members
from backendai_jupyter.domain.records import ComputeSession, Kernel, NewSession, Step, Viewer
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import ClusterMode, Exit, Mount
from backendai_jupyter.store.tables import kernels, sessions, to_thousandths

_REMEMBERED = 1024  # texts: most kernels have the same as others, and all are read again and again
_MOUNTS = TypeAdapter(tuple[Mount, ...])
_SESSION_COLUMNS = [column.label(f"in_session_{column.name}") for column in sessions.c]


def visible_to(viewer: Viewer, table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that every query on behalf of ``viewer`` carries."""
    return sa.true() if viewer.sees_everything else table.c.owner == viewer.user_id


def select_sessions() -> sa.Select[Any]:
    """Return the query whose rows ``to_sessions`` reads: one row for each kernel.

    The caller adds the order of sessions; the kernels of one have theirs already.
    """
    return sa.select(*_SESSION_COLUMNS, *kernels.c).join_from(sessions, kernels)


KERNEL_ORDER = (sessions.c.id, kernels.c.role, kernels.c.idx)  # main1 before sub1


def to_sessions(rows: Iterable[Any]) -> tuple[ComputeSession, ...]:
    """Return the sessions in the order of their first rows."""
    members: dict[str, list[Any]] = {}
    for row in rows:
        members.setdefault(row.session_id, []).append(row)
    return tuple(_to_session(rows[0], tuple(map(_to_kernel, rows))) for rows in members.values())


def first_of(new: NewSession, now: float) -> ComputeSession:
    """Return ``new`` as it is before anything has happened to it."""
    kernels = tuple(_first_kernel(new, *member, now) for member in members(new.cluster_size))
    return ComputeSession(
        id=new.id,
        owner=new.owner,
        name=new.name,
        cluster_id=new.cluster_id,
        kernelspec=new.kernelspec,
        priority=new.priority,
        status=Status.PENDING,
        status_reason="",
        created_at=now,
        ended_at=None,
        kernels=kernels,
        jupyter_kernel_id=new.jupyter_kernel_id,
        resource_group=new.resource_group,
        not_before=new.not_before,
        cluster_mode=new.cluster_mode,
        failure_policy=new.failure_policy,
        startup=new.startup,
        batch=new.batch,
        retries_left=new.batch.retries if new.batch else 0,
    )


def _first_kernel(new: NewSession, role: str, idx: int, now: float) -> Kernel:
    wish = new.kernel_id if role == MAIN else ""
    return Kernel(
        id=wish or str(uuid.uuid4()),
        session_id=new.id,
        owner=new.owner,
        role=role,
        idx=idx,
        status=Status.PENDING,
        status_reason="",
        status_since=now,
        agent_id=None,
        generation=1,
        signal_seq=0,
        signal_num=0,
        image=new.image,
        argv=new.argv,
        env=new.env,
        slots=new.slots,
        mounts=new.mounts,
        shows_all=new.shows_all,
        shm_bytes=new.shm_bytes,
        workdir=new.workdir,
        exit=None,
    )


def session_values(session: ComputeSession) -> dict[str, Any]:
    return {
        **{column.name: getattr(session, column.name) for column in sessions.c},
        "startup": json.dumps(dict(session.startup)),
        "failed_on": json.dumps(session.failed_on),
        "batch": None if session.batch is None else session.batch.model_dump_json(),
    }


def kernel_values(kernel: Kernel) -> dict[str, Any]:
    return {
        **{column.name: getattr(kernel, column.name) for column in kernels.c},
        "argv": json.dumps(kernel.argv),
        "env": json.dumps(kernel.env),
        "slots": slots_text(kernel.slots),
        "mounts": mounts_text(kernel.mounts),
        "exit": exit_text(kernel.exit),
    }


def allocation_values(kernel: Kernel) -> Sequence[dict[str, Any]]:
    """Return the kernel's ledger rows while it holds nothing yet."""
    return [
        {
            "kernel_id": kernel.id,
            "slot": slot,
            "requested": to_thousandths(amount),
            "reserved": 0,
            "used": 0,
        }
        for slot, amount in kernel.slots.items()
    ]


def slots_text(slots: Slots) -> str:
    return json.dumps(slots.to_json())


@lru_cache(_REMEMBERED)
def to_slots(text: str) -> Slots:
    return Slots.from_json(json.loads(text))


def mounts_text(mounts: tuple[Mount, ...]) -> str:
    return _MOUNTS.dump_json(mounts).decode()


@lru_cache(_REMEMBERED)
def to_mounts(text: str) -> tuple[Mount, ...]:
    return _MOUNTS.validate_json(text)


@lru_cache(_REMEMBERED)
def to_batch(text: str) -> Batch:
    return Batch.model_validate_json(text)


@lru_cache(_REMEMBERED)
def to_words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(_REMEMBERED)
def to_startup(text: str) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({r: tuple(words) for r, words in json.loads(text).items()})


def exit_text(exit: Exit | None) -> str | None:
    return None if exit is None else exit.model_dump_json()


def to_step(row: Any) -> Step:
    return Step(
        kernel_id=row.kernel_id,
        before=None if row.before is None else Status(row.before),
        after=Status(row.after),
        reason=row.reason,
        by=row.by,
        at=row.at,
    )


def _to_session(row: Any, kernels: tuple[Kernel, ...]) -> ComputeSession:
    return ComputeSession(
        id=row.in_session_id,
        owner=row.in_session_owner,
        name=row.in_session_name,
        cluster_id=row.in_session_cluster_id,
        kernelspec=row.in_session_kernelspec,
        priority=row.in_session_priority,
        status=Status(row.in_session_status),
        status_reason=row.in_session_status_reason,
        created_at=row.in_session_created_at,
        ended_at=row.in_session_ended_at,
        kernels=kernels,
        jupyter_kernel_id=row.in_session_jupyter_kernel_id,
        resource_group=row.in_session_resource_group,
        not_before=row.in_session_not_before,
        cluster_mode=ClusterMode(row.in_session_cluster_mode),
        failure_policy=FailurePolicy(row.in_session_failure_policy),
        startup=to_startup(row.in_session_startup),
        started_at=row.in_session_started_at,
        attempts=row.in_session_attempts,
        failed_on=to_words(row.in_session_failed_on),
        batch=None if row.in_session_batch is None else to_batch(row.in_session_batch),
        retries_left=row.in_session_retries_left,
    )


def _to_kernel(row: Any) -> Kernel:
    return Kernel(
        id=row.id,
        session_id=row.session_id,
        owner=row.owner,
        role=row.role,
        idx=row.idx,
        status=Status(row.status),
        status_reason=row.status_reason,
        status_since=row.status_since,
        agent_id=row.agent_id,
        generation=row.generation,
        signal_seq=row.signal_seq,
        signal_num=row.signal_num,
        image=row.image,
        argv=to_words(row.argv),
        env=json.loads(row.env),
        slots=to_slots(row.slots),
        mounts=to_mounts(row.mounts),
        shows_all=row.shows_all,
        shm_bytes=row.shm_bytes,
        workdir=row.workdir,
        exit=None if row.exit is None else Exit.model_validate_json(row.exit),
    )
