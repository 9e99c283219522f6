"""Which executions a kernel's journal has: whose they are, where they begin and end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

_MAX_KNOWN = 10_000


@dataclass(slots=True)
class Execution:
    """One ``execute_request``; ``header`` is its header as JSON, as it came.

    ``route`` is the routing id of who asked, empty until the request itself is seen.
    ``end_seq`` is 0 while it goes on.
    """

    msg_id: str
    header: bytes
    first_seq: int
    route: bytes = b""
    end_seq: int = 0
    replied: bool = False
    idle: bool = False

    @property
    def owner(self) -> str:
        """The client session that asked, for Jupyter's clients are routed by its name."""
        return self.route.decode(errors="backslashreplace")


class Executions:
    """Follows what is published and answered; it ends with the later of reply and idle."""

    def __init__(self) -> None:
        self._known: dict[str, Execution] = {}
        self._unfinished: dict[str, Execution] = {}
        self._left_behind: set[str] = set()

    @property
    def unfinished(self) -> Collection[str]:
        """The ids of those that go on, as a view."""
        return self._unfinished.keys()

    def going_on(self) -> list[Execution]:
        return list(self._unfinished.values())

    def requested(self, seq: int, msg_id: str, header: bytes, route: bytes) -> Execution:
        """Take note of a request; its first output may have been seen before."""
        execution = self.seen(seq, msg_id, header)
        execution.route = route
        return execution

    def seen(self, seq: int, msg_id: str, header: bytes) -> Execution:
        """Return the execution that this record belongs to."""
        execution = self._known.get(msg_id)
        if execution is None:
            execution = Execution(msg_id, header, seq)
            self._known[msg_id] = self._unfinished[msg_id] = execution
            if len(self._known) > _MAX_KNOWN:
                self._forget_one()
        return execution

    def replied(self, seq: int, execution: Execution) -> bool:
        """Take note of the reply; return whether the execution has ended with it."""
        execution.replied = True
        return self._ended(seq, execution)

    def became_idle(self, seq: int, execution: Execution) -> bool:
        """Take note of the idle status; return whether the execution has ended with it."""
        execution.idle = True
        return self._ended(seq, execution)

    def kernel_gone(self) -> None:
        """The program that all of them asked has ended."""
        self._left_behind = set(self._unfinished)

    def kernel_came(self, seq: int) -> list[Execution]:
        """Another program is there: return those of the former one, which end with this."""
        ended = [self._unfinished[i] for i in self._left_behind if i in self._unfinished]
        self._left_behind = set()
        for execution in ended:
            self._end(seq, execution)
        return ended

    def concerned(self, seq: int) -> Execution | None:
        """Return the latest execution that had begun when this record was made."""
        for execution in reversed(self._known.values()):
            if execution.first_seq <= seq:
                return execution
        return None

    def _ended(self, seq: int, execution: Execution) -> bool:
        if not (execution.replied and execution.idle):
            return False
        self._end(seq, execution)
        return True

    def _end(self, seq: int, execution: Execution) -> None:
        execution.end_seq = seq
        self._unfinished.pop(execution.msg_id, None)

    def _forget_one(self) -> None:
        oldest = next((i for i in self._known if i not in self._unfinished), None)
        msg_id = oldest or next(iter(self._known))
        del self._known[msg_id]
        self._unfinished.pop(msg_id, None)
