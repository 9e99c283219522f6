"""Compute sessions and their kernels: what is asked for, where it runs, how it went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backendai_jupyter.domain.members import OVER
from backendai_jupyter.domain.records import (
    EVERYTHING,
    SYSTEM,
    ComputeSession,
    Kernel,
    NewSession,
    Parent,
    Selection,
    Step,
    Viewer,
)
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import ClusterMode, Exit
from backendai_jupyter.errors import Conflict, InDoubt, LostRace, NotFound, Unavailable
from backendai_jupyter.store.batch import begin_next_attempt, end_of_attempt, try_no_more
from backendai_jupyter.store.dependencies import insert_dependencies
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.moves import (
    Move,
    end_of,
    lock_session,
    lock_session_of,
    move_kernels,
    write_step,
)
from backendai_jupyter.store.portable import insert_if_absent
from backendai_jupyter.store.retry import retried
from backendai_jupyter.store.rows import (
    KERNEL_ORDER,
    allocation_values,
    exit_text,
    first_of,
    kernel_values,
    select_sessions,
    session_values,
    to_sessions,
    to_step,
    visible_to,
)
from backendai_jupyter.store.session_lists import find_sessions
from backendai_jupyter.store.tables import allocations, kernel_history, kernels, sessions
from backendai_jupyter.store.vfolders import lock_mounted

_INSERT_ALLOCATIONS = sa.insert(allocations)
_RESTARTABLE = frozenset({Status.RUNNING, Status.RESTARTING, Status.CREATING})


class SessionStore:
    """Reads and guarded writes; each public method is at most one transaction.

    What its viewer may not see does not exist: ``NotFound``.  Methods without a viewer
    are the system's own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewSession, *, now: float) -> ComputeSession:
        """Write a session and its kernels, ``PENDING``, and their ledger rows.

        Raises ``Conflict`` if one of its ids is taken, ``NotFound`` without its owner,
        ``LostRace`` if one of its folders is not what its mount says any more.
        """
        session = first_of(new, now)
        try:
            await self._insert(session, new.parents)
        except InDoubt as doubt:
            await self._insert_again(session, new.parents, doubt)
        return session

    @retried
    async def _insert(self, session: ComputeSession, parents: Sequence[Parent]) -> None:
        async with self._database.write() as conn:
            if not await _insert_session(conn, session):
                raise Conflict(f"There is a session {session.id} already.")
            await lock_mounted(conn, session.main.mounts)
            for kernel in session.kernels:
                await _insert_kernel(conn, kernel)
            await insert_dependencies(conn, session.id, parents, now=session.created_at)

    async def _insert_again(
        self, session: ComputeSession, parents: Sequence[Parent], doubt: InDoubt
    ) -> None:
        """Write a session whose first commit was not confirmed; its own id in the way says it was.

        To look for it would not do: what is being committed cannot be seen yet.
        """
        try:
            await self._insert(session, parents)
        except LostRace:
            raise
        except Conflict:
            return
        except Unavailable:
            raise doubt from None

    async def get(self, session_id: str, viewer: Viewer) -> ComputeSession:
        async with self._database.read() as conn:
            query = select_sessions().where(sessions.c.id == session_id)
            query = query.where(visible_to(viewer, sessions)).order_by(*KERNEL_ORDER)
            found = to_sessions(await conn.execute(query))
        if not found:
            raise NotFound(f"There is no session {session_id}.")
        return found[0]

    async def of_kernel(self, kernel_id: str, viewer: Viewer) -> ComputeSession:
        """Return the session that the kernel is a member of."""
        its_session = sa.select(kernels.c.session_id).where(kernels.c.id == kernel_id)
        query = select_sessions().where(sessions.c.id == its_session.scalar_subquery())
        query = query.where(visible_to(viewer, sessions)).order_by(*KERNEL_ORDER)
        async with self._database.read() as conn:
            found = to_sessions(await conn.execute(query))
        if not found:
            raise NotFound(f"There is no kernel {kernel_id}.")
        return found[0]

    async def list(
        self, viewer: Viewer, wanted: Selection = EVERYTHING
    ) -> tuple[ComputeSession, ...]:
        """Return what the viewer may see of what is wanted; see ``find_sessions``."""
        async with self._database.read() as conn:
            return await find_sessions(conn, viewer, wanted)

    async def live(
        self,
        cluster_id: str,
        *,
        viewer: Viewer = SYSTEM,
        jupyter_kernel_id: str | None = None,
        spread: bool = False,
        unshown: bool = False,
        not_on: Collection[str] | None = None,
    ) -> tuple[ComputeSession, ...]:
        """Return the sessions of a cluster that have not ended, oldest first.

        Whoever passes over them again and again asks for no more than it needs: all of many
        are most of what a manager that rests has to do.  ``jupyter_kernel_id``: the one of which
        Jupyter calls a kernel so; ``spread``: those that may be on several nodes; ``unshown``:
        those that no server shows; ``not_on``: those with a kernel on another agent than these.
        """
        query = select_sessions().where(
            sessions.c.cluster_id == cluster_id,
            sessions.c.ended_at.is_(None),
            visible_to(viewer, sessions),
        )
        if jupyter_kernel_id is not None:
            query = query.where(_is_of(jupyter_kernel_id))
        if spread:
            query = query.where(sessions.c.cluster_mode == ClusterMode.MULTI_NODE)
        if unshown:
            query = query.where(sessions.c.jupyter_kernel_id.is_(None))
        if not_on is not None:
            query = query.where(_has_kernel_elsewhere(not_on))
        query = query.order_by(sessions.c.created_at, *KERNEL_ORDER)
        async with self._database.read() as conn:
            return to_sessions(await conn.execute(query))

    async def clusters_in_use(self) -> set[str]:
        """Return the clusters that have sessions which have not ended."""
        query = sa.select(sessions.c.cluster_id).where(sessions.c.ended_at.is_(None)).distinct()
        async with self._database.read() as conn:
            return set((await conn.execute(query)).scalars())

    async def history(self, session_id: str, viewer: Viewer) -> tuple[Step, ...]:
        """Return every step of the session's kernels, oldest first."""
        query = sa.select(kernel_history).join_from(kernel_history, kernels)
        query = query.where(kernels.c.session_id == session_id, visible_to(viewer, kernels))
        async with self._database.read() as conn:
            rows = await conn.execute(query.order_by(kernel_history.c.id))
            steps = tuple(to_step(row) for row in rows)
        if not steps:  # a session is created with its first step
            raise NotFound(f"There is no session {session_id}.")
        return steps

    @retried
    async def move(
        self,
        kernel_id: str,
        to: Status,
        *,
        reason: str,
        by: str,
        now: float,
        exit: Exit | None = None,
        generation: int | None = None,
        before: Status | None = None,
    ) -> None:
        """Move a kernel, with its history, its ledger rows and its session's status.

        The legal sources are part of the UPDATE's condition: of two who try the same, one
        gets ``LostRace``, and so does a report that comes late or twice, or is of another
        ``generation``, or whose reader took the kernel for what it was ``before``.  ``RUNNING``
        counts the reserved slots as used; a final status and ``PENDING`` give them back.  A
        batch that is to be tried again waits instead of ending.
        """
        if to is Status.SCHEDULED:
            raise ValueError("only claim() makes a kernel SCHEDULED: it reserves slots")
        async with self._database.write() as conn:
            session, kernel = await lock_session_of(conn, kernel_id, SYSTEM)
            if generation not in (None, kernel.generation):
                raise LostRace(f"Kernel {kernel_id} is in generation {kernel.generation}.")
            if before not in (None, kernel.status):
                raise LostRace(f"Kernel {kernel_id} is not {before} any more.")
            move = end_of_attempt(session, kernel, Move(to, reason, by, now, exit))
            await move_kernels(conn, session, {kernel_id: move})
            if move.to is not to:
                await begin_next_attempt(conn, session, kernel)

    @retried
    async def claim(
        self, session_id: str, placement: Mapping[str, str], *, reason: str, by: str, now: float
    ) -> None:
        """Reserve slots for kernels on agents (ids by kernel id): all of them or none.

        Raises ``NoCapacity`` if one does not fit any more and ``LostRace`` if one is not
        ``PENDING`` any more; nothing has changed then.
        """
        moves = {
            kernel_id: Move(Status.SCHEDULED, reason, by, now, agent_id=agent_id)
            for kernel_id, agent_id in placement.items()
        }
        async with self._database.write() as conn:
            session = await lock_session(conn, session_id, SYSTEM)
            if not moves or not moves.keys() <= {kernel.id for kernel in session.kernels}:
                raise ValueError(f"{sorted(moves)} are not kernels of session {session_id}")
            await move_kernels(conn, session, moves)

    @retried
    async def restart(
        self, kernel_id: str, viewer: Viewer, *, generation: int, by: str, now: float
    ) -> int:
        """Ask for a restart in place and return the kernel's new generation.

        Raises ``LostRace`` if ``generation``, which its caller wants to replace, is not the
        kernel's any more: of two who see one death, one starts it again.
        """
        async with self._database.write() as conn:
            session, kernel = await lock_session_of(conn, kernel_id, viewer)
            if kernel.status not in _RESTARTABLE:
                raise Conflict(_cannot(kernel, "be restarted"))
            if kernel.generation != generation:
                raise LostRace(f"Kernel {kernel_id} has been restarted by somebody else.")
            if kernel.status is Status.RUNNING:
                move = Move(Status.RESTARTING, "A restart was asked for.", by, now)
                await move_kernels(conn, session, {kernel_id: move})
            await conn.execute(
                sa.update(kernels)
                .where(kernels.c.id == kernel_id)
                .values(generation=generation + 1)
            )
        return generation + 1

    @retried
    async def request_signal(self, kernel_id: str, signum: int, viewer: Viewer) -> int:
        """Ask for a signal to be delivered once and return the request's number."""
        async with self._database.write() as conn:
            _, kernel = await lock_session_of(conn, kernel_id, viewer)
            if kernel.status in FINAL:
                raise Conflict(_cannot(kernel, "be signalled"))
            seq = kernel.signal_seq + 1
            await conn.execute(
                sa.update(kernels)
                .where(kernels.c.id == kernel_id)
                .values(signal_seq=seq, signal_num=signum)
            )
        return seq

    @retried
    async def terminate(
        self, session_id: str, viewer: Viewer, *, reason: str, by: str, now: float
    ) -> None:
        """Ask for the end of all kernels; what has ended or is about to is left alone.

        A kernel that waits is ``CANCELLED`` at once, the others become ``TERMINATING``.
        """
        async with self._database.write() as conn:
            session = await lock_session(conn, session_id, viewer)
            await try_no_more(conn, session)
            moves = {
                kernel.id: Move(end_of(kernel), reason, by, now)
                for kernel in session.kernels
                if kernel.status not in OVER
            }
            if moves:
                await move_kernels(conn, session, moves)

    @retried
    async def give_up(self, kernel_id: str, at: Status, *, exit: Exit, by: str, now: float) -> None:
        """End the session of a kernel that is still at this status, for the reason in ``exit``.

        Of a session whose kernels are up, a sub ends alone: its failure policy does the rest.
        Raises ``LostRace`` if it has another one meanwhile; nothing has changed then.
        """
        async with self._database.write() as conn:
            session, kernel = await lock_session_of(conn, kernel_id, SYSTEM)
            if kernel.status is not at:
                raise LostRace(f"Kernel {kernel_id} is {kernel.status}, not {at}.")
            is_alone = session.is_up and kernel.id != session.main.id
            moves = {
                other.id: Move(end_of(other), exit.message, by, now, exit)
                for other in ([kernel] if is_alone else session.kernels)
                if other.status not in OVER
            }
            if moves:
                await move_kernels(conn, session, moves)

    @retried
    async def set_exit(self, kernel_id: str, exit: Exit) -> None:
        """Keep why a kernel program ended, whatever the kernel's status is."""
        async with self._database.write() as conn:
            kept = await conn.execute(
                sa.update(kernels).where(kernels.c.id == kernel_id).values(exit=exit_text(exit))
            )
            if kept.rowcount != 1:
                raise NotFound(f"There is no kernel {kernel_id}.")


async def _insert_session(conn: AsyncConnection, session: ComputeSession) -> bool:
    try:
        return await insert_if_absent(conn, sessions, session_values(session))
    except sa.exc.IntegrityError:  # the one constraint left that it can break
        raise NotFound(f"There is no user {session.owner}.") from None


async def _insert_kernel(conn: AsyncConnection, kernel: Kernel) -> None:
    if not await insert_if_absent(conn, kernels, kernel_values(kernel)):
        raise Conflict(f"There is a kernel {kernel.id} already.")
    if kernel.slots:
        await conn.execute(_INSERT_ALLOCATIONS, allocation_values(kernel))
    asked = Move(Status.PENDING, "", kernel.owner, kernel.status_since)
    await write_step(conn, kernel.id, None, asked)


def _is_of(name: str) -> sa.ColumnElement[bool]:
    """Return whether Jupyter calls the session's main kernel, or perhaps another of it, so."""
    its_session = sa.select(kernels.c.session_id).where(kernels.c.id == name).scalar_subquery()
    is_shown = sessions.c.jupyter_kernel_id.is_not(None)
    return sa.or_(
        sessions.c.jupyter_kernel_id == name, sa.and_(is_shown, sessions.c.id == its_session)
    )


def _has_kernel_elsewhere(agents: Collection[str]) -> sa.ColumnElement[bool]:
    """Return whether a kernel of the session is on an agent that is none of these."""
    # Of each live session by itself: the kernels of those that have ended are many.
    other = kernels.alias()
    return (
        sa.select(other.c.id)
        .where(
            other.c.session_id == sessions.c.id,
            other.c.agent_id.is_not(None),
            other.c.agent_id.not_in(sorted(agents)),
        )
        .correlate(sessions)
        .exists()
    )


def _cannot(kernel: Kernel, what: str) -> str:
    reason = f" ({kernel.status_reason})" if kernel.status_reason else ""
    return f"Kernel {kernel.id} is {kernel.status}{reason} and cannot {what} now."
