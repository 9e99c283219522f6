"""An ipykernel without any server, on sockets of its own: the time that no server can save."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import zmq
from jupyter_client.manager import AsyncKernelManager

IDLE = b'"idle"'


class BareKernel:
    """Its client does no more than it must: it reads the raw frames of a cell until its end."""

    def __init__(self, manager: AsyncKernelManager, context: zmq.Context[zmq.Socket[bytes]]):
        self._session = manager.session
        where = f"ipc://{manager.ip}-{{}}".format
        self._shell = context.socket(zmq.DEALER)
        self._shell.connect(where(manager.shell_port))
        self._output = context.socket(zmq.SUB)
        self._output.subscribe(b"")
        self._output.connect(where(manager.iopub_port))

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[BareKernel]:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.stop_channels()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        kernel = cls(manager, context)
        try:
            kernel._wait_until_heard()
            yield kernel
        finally:
            context.destroy(linger=0)
            await manager.shutdown_kernel(now=True)

    def trip_s(self) -> float:
        """Return the time from a request to its reply and idle; nothing else runs meanwhile."""
        content = {"code": "1", "silent": False, "store_history": False, "allow_stdin": False}
        request = self._session.serialize(self._session.msg("execute_request", content=content))
        begin = time.perf_counter()
        self._shell.send_multipart(request)
        while IDLE not in self._output.recv_multipart()[-1]:
            """Its other output."""
        self._shell.recv_multipart()
        return time.perf_counter() - begin

    def _wait_until_heard(self) -> None:
        """Return once its output comes here: a subscription takes effect some time later."""
        while not self._output.poll(100):
            self._shell.send_multipart(
                self._session.serialize(self._session.msg("kernel_info_request"))
            )
            self._shell.recv_multipart()
        while self._output.poll(100):
            self._output.recv_multipart()
