"""The notice board: the last known state of every kernel and agent, for those who wait.

The database is the truth; the board is what this manager read last.  ``get`` may be called
from any thread (a provisioner polls it many times a second); everything else belongs to
the manager's event loop, ``follow`` included.
"""

from __future__ import annotations

import asyncio
import signal
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backendai_jupyter.domain.batch import CellProgress
from backendai_jupyter.domain.progress import doing
from backendai_jupyter.domain.records import ComputeSession, Kernel
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import (
    AgentReport,
    Connection,
    Exit,
    KernelReport,
    Phase,
    PullProgress,
)
from backendai_jupyter.errors import TimedOut
from backendai_jupyter.manager.reports import Refusal

REMEMBERED = 1000  # ended kernels whose last notice is kept


@dataclass(frozen=True, slots=True)
class Notice:
    """What is known of one kernel."""

    kernel_id: str
    status: Status
    reason: str
    generation: int  # that was asked for
    agent_generation: int = 0  # that the agent reports
    phase: Phase | None = None
    exit: Exit | None = None
    connection: Connection | None = None
    signal_seq: int = 0  # of the last signal delivered
    signal_num: int = 0  # of the last signal asked for
    session_id: str = ""
    owner: str = ""
    jupyter_kernel_id: str | None = None  # what Jupyter calls it
    step: str = ""  # the launch step under way, or the one that failed
    pull: PullProgress | None = None  # while its image is on its way
    progress: CellProgress | None = None  # of the notebook of a batch, while it runs
    since: float = 0.0  # when it got its status, seconds since the epoch, UTC
    hostname: str = "main1"
    session_up: bool = True  # no kernel of its session holds up its start any more
    waits_for: str = ""  # a sentence, where that is not its own agent

    @classmethod
    def of(
        cls,
        session: ComputeSession,
        kernel: Kernel,
        seen: KernelReport | None = None,
        connection: Connection | None = None,
    ) -> Notice:
        """Return what the rows and the agent's report say together."""
        current = seen if seen and seen.generation == kernel.generation else None
        return cls(
            kernel_id=kernel.id,
            status=kernel.status,
            reason=kernel.status_reason,
            generation=kernel.generation,
            agent_generation=seen.generation if seen else 0,
            phase=seen.phase if seen else None,
            exit=_exit_of(kernel, seen),
            connection=connection,
            signal_seq=seen.signal_seq if seen else 0,
            signal_num=kernel.signal_num,
            session_id=session.id,
            owner=session.owner,
            jupyter_kernel_id=session.name_of(kernel),
            step=current.step if current else "",
            pull=current.pull if current else None,
            progress=current.progress if current else None,
            since=kernel.status_since,
            hostname=kernel.hostname,
            session_up=session.is_up,
        )

    @property
    def running(self) -> bool:
        """Whether the program of the generation that was asked for has answered.

        Those of a session that starts do so together.
        """
        current = self.generation == self.agent_generation and self.phase is Phase.RUNNING
        return current and self.status is Status.RUNNING and self.session_up

    @property
    def exit_code(self) -> int | None:
        """The code of the program that was asked for; None while it runs or starts."""
        if self.status in FINAL or self.status is Status.TERMINATING:
            return self.exit.code if self.exit and self.exit.code is not None else 0
        if not self.session_up:
            return None  # it may be tried again elsewhere
        if self.generation == self.agent_generation and self.phase is Phase.EXITED:
            return self.exit.code if self.exit and self.exit.code is not None else 1
        return None

    @property
    def ended_as_if_asked(self) -> bool:
        """Whether its program ended as one does whose end was asked for, be it to restart it."""
        was_told = self.signal_num in {signal.SIGTERM, signal.SIGKILL}
        code = self.exit_code
        return code == 0 or (was_told and code == 128 + self.signal_num)

    @property
    def starting(self) -> bool:
        """Whether somebody may wait for it: it is on its way up, for the first time or again."""
        return not self.running and self.exit_code is None

    @property
    def message(self) -> str:
        """A sentence: why it has its status, or what happens to it now."""
        if self.status is Status.RUNNING and not self.session_up:
            return "Waiting for the other kernels of its session."
        if self.status is Status.SCHEDULED and self.waits_for:
            return self.waits_for
        if self.starting and self.status not in (Status.PENDING, Status.RESCHEDULING):
            return doing(self.status, self.step, self.pull)
        return self.reason or doing(self.status, self.step)


class Board:
    def __init__(self) -> None:
        self.reports: dict[str, AgentReport] = {}  # of the agents that are alive
        self.refusals: dict[str, Refusal] = {}  # of those that are alive too, and not worked with
        self._notices: OrderedDict[str, Notice] = OrderedDict()
        self._changed = asyncio.Condition()
        self._followers: list[Callable[[Sequence[Notice]], None]] = []

    def get(self, kernel_id: str) -> Notice | None:
        return self._notices.get(kernel_id)

    def unfinished(self) -> set[str]:
        """Return the kernels whose last notice is not a final one."""
        return {n.kernel_id for n in self._notices.values() if n.status not in FINAL}

    def starting(self) -> list[Notice]:
        """Return the kernels that are on their way up, for the first time or again."""
        return [notice for notice in self._notices.values() if notice.starting]

    def follow(self, tell: Callable[[Sequence[Notice]], None]) -> None:
        """Call ``tell`` with all that is up now, then with every change, until ``unfollow``.

        It is called on the manager's event loop and must neither block nor raise.
        """
        tell(tuple(self._notices.values()))
        self._followers.append(tell)

    def unfollow(self, tell: Callable[[Sequence[Notice]], None]) -> None:
        """Call ``tell`` no more; succeeds if it never was."""
        self._followers = [follower for follower in self._followers if follower != tell]

    async def post(self, notices: list[Notice]) -> None:
        """Put up what changed and wake those who wait."""
        fresh = [n for n in notices if self._notices.get(n.kernel_id) != n]
        if not fresh:
            return
        for notice in fresh:
            self._notices[notice.kernel_id] = notice
            self._notices.move_to_end(notice.kernel_id)
        self._forget_oldest()
        for tell in self._followers:
            tell(fresh)
        async with self._changed:
            self._changed.notify_all()

    async def until(
        self, kernel_id: str, holds: Callable[[Notice], bool], *, timeout_s: float | None
    ) -> Notice:
        """Return the first notice of the kernel for which ``holds``; raises ``TimedOut``."""

        def found() -> bool:
            notice = self._notices.get(kernel_id)
            return notice is not None and holds(notice)

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(found)
        except TimeoutError:
            last = self._notices.get(kernel_id)
            state = f"is {last.status}. {last.reason}" if last else "is not known yet"
            raise TimedOut(
                f"Kernel {kernel_id} {state} after {timeout_s:g} seconds of waiting."
            ) from None
        return self._notices[kernel_id]

    def _forget_oldest(self) -> None:
        for kernel_id, notice in list(self._notices.items()):
            if len(self._notices) <= REMEMBERED:
                return
            if notice.status in FINAL:
                del self._notices[kernel_id]


def _exit_of(kernel: Kernel, seen: KernelReport | None) -> Exit | None:
    """Return why a kernel does not run; what ended it counts, not what its end then broke."""
    ending = kernel.status in FINAL or kernel.status is Status.TERMINATING
    if ending and kernel.exit is not None:
        return kernel.exit
    return (seen.exit if seen else None) or kernel.exit
