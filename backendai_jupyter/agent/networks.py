"""The networks of sessions of several kernels on this node.

Each is there from before its first kernel here until after its last one.  What a killed agent
has left goes with the next ``sweep``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from weakref import WeakValueDictionary

from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.domain.wire import Assignment


class SessionNetworks:
    """Knows which kernels are on the network of their session, as far as this process had to do."""

    def __init__(self, runtimes: Mapping[str, KernelRuntime]) -> None:
        self._runtimes = runtimes
        self._sessions: dict[str, str] = {}  # by kernel id
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def remember(self, assignment: Assignment) -> None:
        """Take note of a kernel that may have been started by an agent before this one."""
        if assignment.membership is not None:
            self._sessions[assignment.kernel_id] = assignment.session_id

    async def join(self, assignment: Assignment, runtime: KernelRuntime) -> None:
        """See that a kernel of this runtime can be started on the network of its session."""
        session_id, membership = assignment.session_id, assignment.membership
        if membership is None:
            return
        self.remember(assignment)
        async with self._lock(session_id):
            await runtime.networks.open(session_id, membership)

    async def leave(self, kernel_id: str) -> None:
        """Take note that a kernel is gone, and end the network that nobody is left on."""
        session_id = self._sessions.pop(kernel_id, "")
        if session_id:
            await self._close(session_id)

    async def sweep(self, assigned: Callable[[], Awaitable[Collection[str]]]) -> None:
        """End the networks of sessions that have nothing here and are not ``assigned``."""
        found = await self._found()
        if not found:
            return
        # Asked after the look: a network that has come since is not among those found.
        for session_id in found - set(await assigned()) - await self._with_containers():
            await self._close(session_id)

    async def _close(self, session_id: str) -> None:
        async with self._lock(session_id):
            if session_id in self._sessions.values():
                return
            for runtime in self._runtimes.values():
                await runtime.networks.close(session_id)

    async def _found(self) -> set[str]:
        runtimes = self._runtimes.values()
        return {one for runtime in runtimes for one in await runtime.networks.sessions()}

    async def _with_containers(self) -> set[str]:
        runtimes = self._runtimes.values()
        return {state.session_id for runtime in runtimes for state in await runtime.list()}

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._locks.setdefault(session_id, asyncio.Lock())
