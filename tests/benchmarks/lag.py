"""A server extension that tells how late its event loop is: load it and ``GET /benchmark/lag``.

It also lets a stock server open as many ZeroMQ sockets as it needs for hundreds of kernels.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import zmq
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

TICK_S = 0.005
WHERE = "benchmark/lag"
MAX_SOCKETS = 16_384


class Meter:
    """Asks to be called every 5 ms, and notes how much later it is."""

    def __init__(self) -> None:
        self._late_s: list[float] = []

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next()

    def take(self) -> list[float]:
        """Return what was noted since the last time, in seconds."""
        late_s, self._late_s = self._late_s, []
        return late_s

    def _next(self) -> None:
        self._loop.call_later(TICK_S, self._note, time.perf_counter() + TICK_S)

    def _note(self, due: float) -> None:
        self._late_s.append(max(time.perf_counter() - due, 0.0))
        self._next()


class LagHandler(JupyterHandler):
    def initialize(self, meter: Meter) -> None:
        self._meter = meter

    @web.authenticated
    async def get(self) -> None:
        self.finish({"late_s": self._meter.take()})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    # A stock server has room for 1,023 sockets, and uses six for each kernel that is looked at.
    server.kernel_manager.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    meter = Meter()
    where = url_path_join(server.base_url, WHERE)
    server.web_app.add_handlers(".*$", [(where, LagHandler, {"meter": meter})])
    server.io_loop.add_callback(meter.start)
