"""A kernel process as the event loop sees it: whether its keeper is there, which ends last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from backendai_jupyter.agent.runtime.kernel_dir import KernelDir


class KeptKernel:
    """A kernel's directory, and the event loop's eye on its keeper."""

    def __init__(
        self, directory: KernelDir, keeper_fd: int | None, on_exit: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self.ended = asyncio.Event()
        self._keeper_fd = keeper_fd
        self._on_exit = on_exit

    def watch(self) -> None:
        if self._keeper_fd is None:
            self.ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._keeper_fd, self._gone)

    def unwatch(self) -> None:
        if self._keeper_fd is not None:
            asyncio.get_running_loop().remove_reader(self._keeper_fd)
            os.close(self._keeper_fd)
            self._keeper_fd = None

    def kill_keeper(self) -> None:
        if self._keeper_fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._keeper_fd, signal.SIGKILL)

    def _gone(self) -> None:
        if self._keeper_fd is not None:
            # Where this process is PID 1 of a container, keepers become its children.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._keeper_fd, os.WEXITED | os.WNOHANG)
        self.unwatch()
        self.ended.set()
        self._on_exit(self.directory.kernel_id)
