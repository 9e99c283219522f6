"""Named steps at which another process can hold this one, to see what happens if it dies there.

Off, and then free, unless ``BACKENDAI_POINTS`` names a unix socket when the process starts.
Then each step that is reached is said there, as a line of JSON with ``pid`` and ``point``, and
goes on once it gets a line back.  If nobody listens it goes on at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket

_LISTENER = os.environ.get("BACKENDAI_POINTS")


async def reached(point: str) -> None:
    """Say that this task has come to ``point``; the others of its loop go on meanwhile."""
    if _LISTENER is None:
        return
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(_LISTENER)
        try:
            writer.write(_said(point))
            await reader.readline()
        finally:
            writer.close()


def reached_in_thread(point: str) -> None:
    """Do the same in a thread that has no event loop."""
    if _LISTENER is None:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
        listener.connect(_LISTENER)
        listener.sendall(_said(point))
        listener.recv(1)


def _said(point: str) -> bytes:
    return json.dumps({"pid": os.getpid(), "point": point}).encode() + b"\n"
