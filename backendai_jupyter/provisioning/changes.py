"""What the manager's board says, brought to the event loop of the Jupyter Server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass

from backendai_jupyter.domain.records import Viewer
from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.manager.board import REMEMBERED, Board, Notice


@dataclass(frozen=True, slots=True)
class Change:
    """``id`` grows with each change, also from one server to the next; ``at`` is in seconds."""

    id: int
    at: float
    notice: Notice

    @property
    def is_live(self) -> bool:
        return self.notice.status not in FINAL


Listener = Callable[[Sequence[Change]], None]


class Changes:
    """Follows the board and tells its listeners on the Jupyter Server's loop.

    ``take`` is called on the backend's loop; all else belongs to Jupyter's.
    """

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self._board = board
        self._loop = loop
        self._ids = itertools.count(time.time_ns() // 1_000_000)
        self._last: OrderedDict[str, Change] = OrderedDict()  # of each kernel
        self._listeners: list[tuple[Listener, Callable[[], None]]] = []

    async def open(self) -> None:
        """Begin to follow; run it on the backend's loop."""
        self._board.follow(self.take)

    async def stop(self) -> None:
        """Follow no more; run it on the backend's loop."""
        self._board.unfollow(self.take)

    def close(self) -> None:
        """Tell every listener that this was all."""
        for _, on_close in tuple(self._listeners):
            on_close()
        self._listeners = []

    def take(self, notices: Sequence[Notice]) -> None:
        # A context of its own: that of a request would follow whatever is done about it.
        self._loop.call_soon_threadsafe(self._spread, notices, time.time(), context=Context())

    def listen(self, tell: Listener, *, on_close: Callable[[], None] = lambda: None) -> None:
        """Call ``tell`` with each change from now on, until ``leave``; it must not raise."""
        self._listeners.append((tell, on_close))

    def leave(self, tell: Listener) -> None:
        """Call ``tell`` no more; succeeds if it never was."""
        self._listeners = [known for known in self._listeners if known[0] != tell]

    def known(self, viewer: Viewer, *, after: int | None = None) -> list[Change]:
        """Return the last change of each live kernel that the viewer may see, oldest first.

        With ``after``, a change's id: those that ended since then too, as far as remembered.
        """
        return [
            change
            for change in self._last.values()
            if viewer.may_see(change.notice.owner)
            and (change.is_live or (after is not None and change.id > after))
        ]

    def _spread(self, notices: Iterable[Notice], at: float) -> None:
        fresh = [Change(next(self._ids), at, notice) for notice in notices]
        for change in fresh:
            self._last[change.notice.kernel_id] = change
            self._last.move_to_end(change.notice.kernel_id)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        for tell, _ in tuple(self._listeners):
            tell(fresh)
