"""Make the cluster store say what the rows say: one assignment per kernel that should be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore, Listing
from backendai_jupyter.domain.batch import BatchOrder, order_of
from backendai_jupyter.domain.members import identity, membership, with_startup
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import ASSIGNED, Status
from backendai_jupyter.domain.wire import Assignment, Phase, Signal
from backendai_jupyter.errors import LostRace
from backendai_jupyter.manager.board import Board
from backendai_jupyter.manager.members import Members
from backendai_jupyter.manager.networks import needs_network, network_of
from backendai_jupyter.points import reached
from backendai_jupyter.store.sessions import SessionStore

_LEAVING = {Status.TERMINATING, Status.RESCHEDULING}
_Start = tuple[str, int]  # kernel id, and how often its session was taken back before


class Reconciler:
    """Writes, updates and removes assignments; gives up on kernels nobody restarts.

    Every manager does.  Each reads the assignments before the rows, and writes only over what
    it has read: so what a newer row made another one write is never undone.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        cluster: ClusterStore,
        sessions: SessionStore,
        members: Members,
        board: Board,
        restart_grace_s: Callable[[], float],
        released: Callable[[], None],
        again: Callable[[], None],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._sessions = sessions
        self._members = members
        self._board = board
        self._restart_grace_s = restart_grace_s
        self._notify_released = released
        self._again = again
        self._now = now
        self._clock = clock  # the time of day may jump, and end a kernel whose owner restarts it
        self._ended: dict[tuple[str, int], float] = {}  # kernel id, generation -> first seen at
        self._released: dict[_Start, int] = {}  # revision without its assignment

    def released(self, session: ComputeSession, kernel: Kernel) -> int | None:
        """Return the revision at which the kernel's assignment was certainly gone."""
        return self._released.get((kernel.id, session.attempts))

    async def step(self) -> None:
        """One pass over all live kernels and all assignments of this cluster."""
        listing = await self._cluster.list(keys.ASSIGNMENTS)
        existing = {entry.key for entry in listing.entries}
        live = await self._sessions.live(self._cluster_id)
        wanted: dict[str, Assignment] = {}
        leaving: dict[_Start, str] = {}
        is_behind = False  # these rows are
        for session in live:
            is_behind |= await self._members.ended_with_those_gone(session)
            may_start = not needs_network(session) or network_of(session, self._board)[0]
            for kernel in session.kernels:
                start = kernel.id, session.attempts
                if await self._given_up(session, kernel):
                    leaving[start] = _key(kernel)
                    is_behind |= len(session.kernels) > 1
                elif kernel.status in ASSIGNED and (may_start or _key(kernel) in existing):
                    wanted[_key(kernel)] = assignment_of(session, kernel)
                elif kernel.status in _LEAVING:
                    leaving[start] = _key(kernel)
        generations = {(k.id, k.generation) for session in live for k in session.kernels}
        self._ended = {k: since for k, since in self._ended.items() if k in generations}
        self._released = {k: r for k, r in self._released.items() if k in leaving}
        overtaken = await self._write(listing, wanted)
        for start, key in leaving.items():
            if start not in self._released:
                self._released[start] = await self._cluster.delete(key)
                await reached("manager.assignment.deleted")
                self._notify_released()
        if overtaken or is_behind:
            self._again()

    async def _write(self, listing: Listing, wanted: Mapping[str, Assignment]) -> bool:
        """Write what is wanted and delete all else; return whether another manager was faster."""
        existing = {entry.key: entry for entry in listing.entries}
        written = True
        for key, assignment in wanted.items():
            entry = existing.get(key)
            value = updated(entry.value if entry else "", assignment)
            if entry is not None and entry.value == value:
                continue
            revision = entry.revision if entry else 0
            written &= await self._cluster.put_if(key, value, revision=revision)
            await reached("manager.assignment.written")
        for key in existing.keys() - wanted.keys():
            written &= await self._cluster.delete_if(key, revision=existing[key].revision)
        return not written

    async def _given_up(self, session: ComputeSession, kernel: Kernel) -> bool:
        """End a kernel whose program ended and whose owner did not start it again in time.

        Only of a main kernel that was up there is somebody who does, or of another that ended as
        if that was asked for, and none of a batch; what nobody starts is given up at once.
        """
        notice = self._board.get(kernel.id)
        if kernel.status is not Status.RESTARTING or notice is None:
            return False
        ended = notice.phase is Phase.EXITED and notice.agent_generation == kernel.generation
        if not ended:
            return False
        since = self._ended.setdefault((kernel.id, kernel.generation), self._clock())
        is_main = kernel.id == session.main.id
        is_owned = session.is_up and session.batch is None
        may_come_back = is_owned and (is_main or notice.ended_as_if_asked)
        if may_come_back and self._clock() - since < self._restart_grace_s():
            return False
        try:
            await self._sessions.move(
                kernel.id,
                Status.TERMINATING,
                reason=kernel.status_reason,
                by="reconciler",
                now=self._now(),
                generation=kernel.generation,
            )
        except LostRace:
            return False  # its owner did, just now
        return True


def updated(text: str, wanted: Assignment) -> str:
    """Return ``text`` so that it says what is wanted, and what only newer managers know too.

    Managers of two versions that wrote all they know would undo each other's work for ever.
    """
    whole = wanted.model_dump_json()
    if text == whole:
        return text
    try:
        there = json.loads(text)
        known = Assignment.model_validate(there)
    except ValueError:
        return whole
    changed = {name for name, value in known if value != getattr(wanted, name)}
    if not changed:
        return text
    return json.dumps(there | wanted.model_dump(mode="json", include=changed))


def assignment_of(session: ComputeSession, kernel: Kernel) -> Assignment:
    """Return the desired state of ``kernel`` as its agent is told."""
    signal = Signal(seq=kernel.signal_seq, signum=kernel.signal_num) if kernel.signal_seq else None
    return Assignment(
        kernel_id=kernel.id,
        session_id=session.id,
        owner=session.owner,
        generation=kernel.generation,
        image=kernel.image,
        argv=with_startup(session, _with_command(session, kernel)),
        env={**kernel.env, **identity(session, kernel)},
        limits=kernel.slots,
        mounts=kernel.mounts,
        workdir=kernel.workdir,
        shm_bytes=kernel.shm_bytes,
        hostname=kernel.hostname,
        membership=membership(session, kernel),
        signal=signal,
        batch=_order_of(session, kernel),
    )


def _with_command(session: ComputeSession, kernel: Kernel) -> Kernel:
    """Return a kernel with its own command: beside a batch the others are ordinary kernels."""
    if session.batch is None or kernel.id == session.main.id:
        return kernel
    return replace(kernel, argv=session.batch.kernel_argv)


def _order_of(session: ComputeSession, kernel: Kernel) -> BatchOrder | None:
    if session.batch is None or kernel.id != session.main.id:
        return None
    go = session.status is Status.RUNNING
    return order_of(session.batch, attempt=kernel.generation, go=go)


def _key(kernel: Kernel) -> str:
    assert kernel.agent_id is not None, "a kernel without an agent is never assigned"
    return keys.assignment(kernel.agent_id, kernel.id)
