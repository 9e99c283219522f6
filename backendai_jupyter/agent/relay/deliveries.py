"""How far each client session has certainly read a kernel's journal, and what nobody has.

An execution is delivered once its owner, or an heir, has acknowledged its end.  An heir is a
session that nobody knew when it came, after the owner had gone: a page that was reloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from backendai_jupyter.agent.relay.executions import Execution, Executions

_MAX_SESSIONS = 200


@dataclass(slots=True)
class Session:
    """Positions of one client; all of them are numbers of records.

    ``began`` is what its first stream started after, ``came_at`` the last that there was then.
    """

    acked: int
    began: int
    came_at: int
    heirs: Collection[str] = ()
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the stream of a session starts, and whether it was here before."""

    after: int
    known: bool


class Deliveries:
    """The sessions of one kernel, all of them away at first."""

    def __init__(self, executions: Executions, sessions: Mapping[str, Session]) -> None:
        self._executions = executions
        self._undelivered: dict[str, Execution] = {}  # of those that have ended
        self._sessions = dict(sessions)

    @property
    def last_acked(self) -> int:
        return max((session.acked for session in self._sessions.values()), default=0)

    def sessions(self) -> dict[str, dict[str, Any]]:
        """Return what must outlive this process, as JSON has it."""
        return {
            name: {
                "acked": session.acked,
                "began": session.began,
                "came_at": session.came_at,
                "heirs": sorted(session.heirs),
            }
            for name, session in self._sessions.items()
        }

    def ended(self, execution: Execution) -> None:
        """Take note of an execution that has just ended."""
        if self._matters(execution) and not self._is_delivered(execution):
            self._undelivered[execution.msg_id] = execution

    def attach(self, name: str, after: int | None, head: int) -> Beginning:
        """Begin a stream for a session; with ``after`` it says itself where."""
        session = self._sessions.pop(name, None)
        known = session is not None
        if session is None:
            session = Session(head, head, head)
        self._sessions[name] = session  # the last is the most recent
        if not known:
            if after is None:
                self._inherit(name)
            session.acked = session.began = self._beginning(head) if after is None else after
        session.heirs = ()
        session.attached = True
        self._evict()
        return Beginning(min(session.acked if after is None else after, head), known)

    def ack(self, name: str, seq: int) -> None:
        """Take note that the client has everything up to ``seq``."""
        session = self._sessions[name]
        if seq > session.acked:
            session.acked = seq
            delivered = [i for i, e in self._undelivered.items() if self._is_delivered(e)]
            for msg_id in delivered:
                del self._undelivered[msg_id]

    def detach(self, name: str) -> None:
        session = self._sessions[name]
        session.attached = False
        # Who came while there was something that this one never acknowledged came after it
        # had gone, only that nobody had noticed.
        late = {n for n, s in self._sessions.items() if s.attached and s.came_at > session.acked}
        session.heirs = {*session.heirs, *late}

    def _beginning(self, head: int) -> int:
        """Return what to start after so that nothing undelivered is missed."""
        going_on = [e for e in self._executions.going_on() if self._matters(e)]
        waiting = [*going_on, *self._undelivered.values()]
        return min((execution.first_seq - 1 for execution in waiting), default=head)

    def _matters(self, execution: Execution) -> bool:
        """Return whether somebody who reads the journal has asked for it."""
        return bool(execution.route) and execution.owner in self._sessions

    def _inherit(self, name: str) -> None:
        for other, session in self._sessions.items():
            if other != name and not session.attached:
                session.heirs = {*session.heirs, name}

    def _is_delivered(self, execution: Execution) -> bool:
        owner = self._sessions[execution.owner]
        heirs = [self._sessions[name] for name in owner.heirs if name in self._sessions]
        return owner.acked >= execution.end_seq or any(
            heir.acked >= execution.end_seq and heir.began < execution.first_seq for heir in heirs
        )

    def _evict(self) -> None:
        for name in [n for n, s in self._sessions.items() if not s.attached]:
            if len(self._sessions) <= _MAX_SESSIONS:
                return
            del self._sessions[name]
            self._undelivered = {i: e for i, e in self._undelivered.items() if e.owner != name}
