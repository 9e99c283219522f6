"""What members say to each other, and what a kernel's messages look like on the way.

Who has code to run sends ``RUN`` to the listener of a member and gets ``STARTED``, the messages
of the kernel as ``OUTPUT``, and ``DONE`` with its reply.  The listener takes no more from the
kernel while ``WINDOW_BYTES`` are on their way that nobody has said to have ``TOOK``: so a flood
makes the kernel wait and fills nobody's memory.  The frames behind the first are JSON, but for
the buffers of a message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

RUN, STOP, TOOK, PING = b"run", b"stop", b"took", b"ping"
PONG, STARTED, OUTPUT, DONE = b"pong", b"started", b"output", b"done"
WINDOW_BYTES = 4 << 20


@dataclass(frozen=True)
class Message:
    """A message of a kernel's output, its content as it came."""

    parent: str  # the id of the request that it belongs to
    kind: str
    content: bytes
    metadata: bytes = b"{}"
    buffers: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return len(self.content) + len(self.metadata) + sum(map(len, self.buffers))

    def frames(self) -> list[bytes]:
        return [self.kind.encode(), self.content, self.metadata, *self.buffers]

    @classmethod
    def of(cls, parent: str, frames: list[bytes]) -> Message:
        kind, content, metadata, *buffers = frames
        return cls(parent, kind.decode(), content, metadata, tuple(buffers))


def packed(value: Any) -> bytes:
    return json.dumps(value).encode()
