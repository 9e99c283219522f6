"""Runs inside a Python kernel: a cell that is interrupted just beside its code gets a reply, too.

Where a ``KeyboardInterrupt`` comes before or behind the code of a cell, ipykernel logs it and sends
no reply, and a notebook or nbclient waits for that for ever.  The agent puts this file beside
``kernel_output.py``, which uses it.
"""

from __future__ import annotations

import signal
import threading
from typing import Any


class Replies:
    """Handles execute requests as the kernel does, and replies to each."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._handle = kernel.shell_handlers["execute_request"]
        self._finish = kernel.finish_metadata
        self._is_executing = False

    async def execute(self, stream: Any, ident: Any, parent: Any) -> None:
        # Interrupts come in the main thread; a subshell is another one.
        self._is_executing = threading.current_thread() is threading.main_thread()
        try:
            await self._handle(stream, ident, parent)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._say_interrupted(stream, ident, parent)
        finally:
            self._is_executing = False

    def finish_metadata(self, parent: Any, metadata: Any, content: Any) -> Any:
        """Do what the kernel does just before it replies."""
        if self._is_executing:
            # The cell is over, and half a reply could not be mended.  ipykernel sets its own
            # handler again when it is done.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self._finish(parent, metadata, content)

    def _say_interrupted(self, stream: Any, ident: Any, parent: Any) -> None:
        kernel = self._kernel
        content = {
            "status": "error",
            "ename": "KeyboardInterrupt",
            "evalue": "",
            "traceback": [],
            "execution_count": kernel.execution_count - 1,
            "user_expressions": {},
            "payload": [],
        }
        metadata = self._finish(parent, kernel.init_metadata(parent), content)
        kernel.session.send(
            stream, "execute_reply", content, parent, metadata=metadata, ident=ident
        )
        if parent["content"].get("stop_on_error", True):
            kernel._abort_queues()


def install(kernel: Any) -> None:
    """Have the kernel reply to every execute request."""
    replies = Replies(kernel)
    kernel.shell_handlers["execute_request"] = replies.execute
    kernel.finish_metadata = replies.finish_metadata
