"""What a client wants to be executed, until the journal shows that it has passed the relay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmq.eventloop.zmqstream import ZMQStream

from backendai_jupyter.agent.relay.chronicle import read_header
from backendai_jupyter.agent.relay.messages import DELIMITER

_EXECUTE = "execute_request"
_MOST = 1_000  # of which the journal says nothing, because its relay does not come back


class ShellChannel:
    """Takes the place of the stream to the kernel's shell channel, and remembers requests.

    A request that is in the relay when that is killed is lost.  To send it again does no harm
    where the kernel got it after all: jupyter_client's ``Session``, which ipykernel uses, refuses
    what has a signature that it has seen.
    """

    def __init__(self, stream: ZMQStream) -> None:
        self._stream = stream
        self._unseen: dict[str, Sequence[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def send_multipart(self, frames: Sequence[Any], *args: Any, **options: Any) -> Any:
        """Send a message as the stream does."""
        header = read_header(bytes(frames[frames.index(DELIMITER) + 2]))
        if header.msg_type == _EXECUTE and len(self._unseen) < _MOST:
            self._unseen[header.msg_id] = frames
        return self._stream.send_multipart(frames, *args, **options)

    def saw(self, header: bytes) -> None:
        """Take note of the header of a request that has passed the relay."""
        if self._unseen:
            self._unseen.pop(read_header(header).msg_id, None)

    def forget(self) -> None:
        """Take note that the kernel starts anew: what the former program was asked is over."""
        self._unseen.clear()

    def send_again(self) -> int:
        """Send what has not been seen once more; return how many requests that were."""
        for frames in self._unseen.values():
            self._stream.send_multipart(frames)
        return len(self._unseen)
