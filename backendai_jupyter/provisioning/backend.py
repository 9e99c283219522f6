"""The backend of this process: a manager, with or without an agent, on a loop of its own.

It has a thread to itself because its users do not share a loop: the Jupyter Server has one,
nbclient makes another, and a synchronous ``KernelManager`` runs one only for the length of each
call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from traitlets.config import Config

from backendai_jupyter.config import BackendAI, BackendAIAgent
from backendai_jupyter.errors import Unavailable
from backendai_jupyter.manager.manager import Manager
from backendai_jupyter.provisioning.clustered import Clustered
from backendai_jupyter.provisioning.embedded import Embedded
from backendai_jupyter.provisioning.parts import Parts

log = logging.getLogger(__name__)

T = TypeVar("T")

_START_TIMEOUT_S = 60.0
_STOP_MARGIN_S = 10.0  # for all that is not the end of kernels


class Backend:
    """One manager: of a machine of its own, with its agent, or of a cluster.

    ``start`` and ``stop`` block their caller; ``call`` may be awaited on any event loop.  A
    server's (``serving``) has the kernels of the server before it; any other ends its own.
    """

    def __init__(self, config: Config, *, serving: bool = False) -> None:
        self._serving = serving
        self.settings = BackendAI(config=config)
        self.agent_settings = BackendAIAgent(config=config)
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="backendai", daemon=True)
        self.manager: Manager

    def start(self) -> None:
        """Return when kernels can be started; raises what kept it from getting there."""
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise Unavailable("The Backend.AI manager did not get ready in time; see the log.")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End all kernels, unless they outlive the server, and leave nothing else behind."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(self.settings.end_timeout_s + _STOP_MARGIN_S)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the backend's loop and return its result on the caller's."""
        if not self._thread.is_alive():
            work.close()
            raise Unavailable("The Backend.AI backend of this process has stopped.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    def call_blocking(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the backend's loop from a thread that has no loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:  # raised again by ``start``
            self._failure = error
            if self._ready.is_set():
                log.exception("the backend failed")
        finally:
            self._ready.set()
            self._loop.close()

    def _parts(self) -> Parts:
        if self.settings.in_cluster:
            return Clustered(self.settings, self.agent_settings)
        return Embedded(self.settings, self.agent_settings, serving=self._serving)

    async def _live(self) -> None:
        parts = self._parts()
        try:
            self.manager = await parts.open()
            self._ready.set()
            await self._stopping.wait()
        finally:
            await parts.close()
