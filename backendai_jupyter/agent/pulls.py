"""One pull of an image at a time, for all kernels of this node that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from backendai_jupyter.domain.wire import PullProgress
from backendai_jupyter.errors import BackendError
from backendai_jupyter.supervisor import Supervisor

Tell = Callable[[PullProgress], None]
Work = Callable[[Tell], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Pull:
    waiting: list[Tell] = field(default_factory=list)
    progress: PullProgress = field(default_factory=PullProgress)
    task: asyncio.Task[BackendError | None] | None = None

    def tell(self, progress: PullProgress) -> None:
        self.progress = progress
        for tell in tuple(self.waiting):
            tell(progress)


class Pulls:
    """A pull goes on for as long as somebody waits for it, and no longer."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._running: dict[str, _Pull] = {}

    async def join(self, key: str, work: Work, tell: Tell) -> None:
        """Wait until the pull ``key`` has ended, begun with ``work`` if there is none.

        ``tell`` hears at once how far it is, and of its progress.  Raises what ``work`` raised.
        """
        pull = self._running.get(key) or self._begin(key, work)
        assert pull.task is not None
        pull.waiting.append(tell)
        tell(pull.progress)
        try:
            problem = await asyncio.shield(pull.task)
        finally:
            pull.waiting.remove(tell)
            if not pull.waiting:
                self._forget(key, pull)
                pull.task.cancel()
        if problem is not None:
            raise problem

    def _begin(self, key: str, work: Work) -> _Pull:
        pull = self._running[key] = _Pull()
        pull.task = self._supervisor.task(f"pull {key}", self._run(key, pull, work))
        return pull

    async def _run(self, key: str, pull: _Pull, work: Work) -> BackendError | None:
        try:
            await work(pull.tell)
        except BackendError as error:
            return error  # to all who wait, who say it
        finally:
            self._forget(key, pull)
        return None

    def _forget(self, key: str, pull: _Pull) -> None:
        if self._running.get(key) is pull:
            del self._running[key]
