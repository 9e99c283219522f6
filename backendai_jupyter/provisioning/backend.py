"""The embedded backend: a manager and an agent in this process, on an event loop of their own.

They have a thread to themselves because their users do not share a loop: the Jupyter Server
has one, nbclient makes another, and a synchronous ``KernelManager`` runs one only for the
length of each call.
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
from backendai_jupyter.provisioning.embedded import Embedded
from backendai_jupyter.provisioning.parts import Parts

log = logging.getLogger(__name__)

T = TypeVar("T")

_START_TIMEOUT_S = 60.0
_STOP_MARGIN_S = 10.0  # for all that is not the end of kernels


class Backend:
    """A manager and an agent that meet in memory, over the database of this machine.

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
            raise Unavailable("The embedded backend did not get ready in time; see the log.")
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
                log.exception("the embedded backend failed")
        finally:
            self._ready.set()
            self._loop.close()

    async def _live(self) -> None:
        parts: Parts = Embedded(self.settings, self.agent_settings, serving=self._serving)
        try:
            self.manager = await parts.open()
            self._ready.set()
            await self._stopping.wait()
        finally:
            await parts.close()
