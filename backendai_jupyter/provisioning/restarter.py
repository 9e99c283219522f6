"""Start a kernel again whose program has died: at once, and not for ever."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter

from backendai_jupyter.errors import BackendError
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner

_STATE_AFTER = {"restart": "restarting", "dead": "dead"}  # what Jupyter's REST API says then


class Restarter(AsyncIOLoopKernelRestarter):
    """Jupyter's own restarter, which need not wait for its next poll to hear of a death.

    ``look`` polls at once, unless the last restart was less than ``time_to_dead`` ago: a
    program that dies at once, again and again, is started as often as Jupyter would.  It gives
    up where another attempt cannot help, instead of trying for ever.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._poller: asyncio.Task[Any] | None = None  # while there is one
        self._restarted_at = float("-inf")

    @property
    def watches(self) -> bool:
        """Whether it has been started, and neither stopped nor given up."""
        return self._pcallback is not None

    async def look(self) -> None:
        """Take note that the program may have ended."""
        if self.watches and time.monotonic() - self._restarted_at >= self.time_to_dead:
            await self.poll()

    async def poll(self) -> None:  # type: ignore[override] # as in the class above
        if self._poller is not None:
            return  # the one that is under way sees the same
        self._poller = asyncio.current_task()
        try:
            await self._poll()
        finally:
            self._poller = None

    async def abort(self) -> None:
        """Stop, and give up a restart that is under way."""
        self.stop()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])

    async def _poll(self) -> None:
        provisioner = self.kernel_manager.provisioner
        ended = isinstance(provisioner, BackendAIProvisioner) and provisioner.ended_for_good
        if ended and not self.kernel_manager.shutting_down:
            await self._give_up(await provisioner.poll())
            return
        if isinstance(provisioner, BackendAIProvisioner) and provisioner.is_left_to_others:
            return
        place = getattr(provisioner, "place", None)
        if place is not None and place.is_sub:
            return  # its session's failure policy says what becomes of it
        try:
            await super().poll()
        except BackendError as error:
            self.kernel_manager.reason = str(error)
            await self._give_up(error)
            return
        if self.kernel_manager.execution_state == "restarting":
            # It has answered, but not on behalf of anybody whose messages Jupyter counts.
            self.kernel_manager.execution_state = "idle"

    def end(self) -> None:
        """Say that the kernel is no more, and watch it no longer."""
        self.stop()
        self._fire_callbacks("dead")

    async def _give_up(self, why: object) -> None:
        self.log.error("Kernel is not started again: %s", why)
        self._fire_callbacks("dead")
        self.stop()

    def _fire_callbacks(self, event: str) -> None:
        self.kernel_manager.execution_state = _STATE_AFTER[event]
        if event == "restart":
            self._restarted_at = time.monotonic()
        super()._fire_callbacks(event)
