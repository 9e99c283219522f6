"""Runs inside a Python kernel: what it said is kept until the relay has written it down.

The agent puts this file beside ``kernel_output.py``, which uses it (decision 023).  It needs
nothing but pyzmq of the kernel's own image, and nothing of this package.

Each message has a number, which travels in a frame in front of the delimiter: there Jupyter has
routing ids, so that a reader who knows nothing of numbers passes it over.  The relay says on the
same socket, up to which number its journal has everything; a relay that comes after one that was
killed says where it is to begin again.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from typing import Any, NamedTuple

import zmq

DELIMITER = b"<IDS|MSG>"
MAGIC = b"BAN1"
MARK = struct.Struct("<4s8sQQ")  # magic, program, number, the first number that is kept
# What the relay says: that this, the program, the last number that is in the journal.
WORD = struct.Struct("<c8sQ")
RECEIPT, RESUME = b"\x02", b"\x03"  # 0 and 1 are ZeroMQ's own: subscriptions
KEPT_BYTES = 8 << 20
KEPT_MESSAGES = 2048
_READABLE = int(zmq.POLLIN)  # an enum takes longer than all the rest here
WAIT_MILLIS = 100  # after which one who waits for a receipt looks whether the kernel ends


class Kept(NamedTuple):
    """A message with the rest of what it is sent with."""

    frames: list[bytes]
    delimiter: int  # its place
    options: dict[str, Any]
    size: int


class Outbox:
    """The messages of one kernel program that the relay has not confirmed.

    Until a relay has said something, which an older one never does, the oldest go when there
    are too many; then none goes, and there ``is_full``.
    """

    def __init__(self) -> None:
        self.program = os.urandom(8)
        self._kept: deque[Kept] = deque()
        self._size = 0
        self._first = 1  # the number of the first that is kept
        self._next = 1  # to be sent
        self._confirmed = False

    @property
    def is_full(self) -> bool:
        return self._confirmed and self._is_over_bound()

    def add(self, frames: list[Any], **options: Any) -> None:
        """Give a message its number; it is the last to be sent."""
        # Whoever made a buffer may change it before the message is sent again.
        frames = [frame if isinstance(frame, bytes) else bytes(frame) for frame in frames]
        size = sum(map(len, frames))
        self._kept.append(Kept(frames, frames.index(DELIMITER), options, size))
        self._size += size
        while not self._confirmed and len(self._kept) > 1 and self._is_over_bound():
            self._drop_first()

    def take(self) -> tuple[list[bytes], dict[str, Any]] | None:
        """Return the next message to send, with its mark, and its options."""
        index = self._next - self._first
        if index >= len(self._kept):
            return None
        frames, place, options, _ = self._kept[index]
        mark = MARK.pack(MAGIC, self.program, self._next, self._first)
        self._next += 1
        return [*frames[:place], mark, *frames[place:]], options

    def hear(self, word: bytes) -> None:
        """Do what the relay says."""
        if len(word) != WORD.size:
            return
        what, program, number = WORD.unpack(word)
        self._confirmed = True
        while program == self.program and self._kept and self._first <= number:
            self._drop_first()
        if what == RESUME:
            self._next = self._first

    def _drop_first(self) -> None:
        self._size -= self._kept.popleft().size
        self._first += 1
        self._next = max(self._next, self._first)

    def _is_over_bound(self) -> bool:
        return len(self._kept) >= KEPT_MESSAGES or self._size >= KEPT_BYTES


class Delivery:
    """Sends what the IOPub thread of ``kernel_output`` sends; all of it in that thread."""

    def __init__(self, thread: Any) -> None:
        self._thread = thread
        self._pass_on = thread._really_send
        self._outbox = Outbox()

    def begin(self) -> None:
        self._thread._really_send = self.send
        self._thread._xpub_stream.on_recv(self._be_told)

    def send(self, frames: list[Any], *args: Any, **options: Any) -> None:
        # In a forked child, and when the kernel has ended, the thread is no more.
        if args or DELIMITER not in frames or not self._thread.thread.is_alive():
            self._pass_on(frames, *args, **options)
            return
        while self._outbox.is_full:
            if time.monotonic() > self._thread._give_up_at:
                return
            self._thread.socket.poll(WAIT_MILLIS)
            self._exchange()
        self._outbox.add(frames, **options)
        self._exchange()

    def _exchange(self) -> None:
        """Send what is to be sent, and hear what the relay says.

        Nothing is left unheard: each use of the socket may take the signal that there is
        something to hear, and the event loop would then not come back to it.
        """
        socket = self._thread.socket
        while True:
            while (message := self._outbox.take()) is not None:
                self._pass_on(message[0], **message[1])
            if not socket.getsockopt(zmq.EVENTS) & _READABLE:
                return
            self._hear(socket.recv_multipart(zmq.NOBLOCK))

    def _be_told(self, frames: list[bytes]) -> None:
        self._hear(frames)
        self._exchange()

    def _hear(self, frames: list[bytes]) -> None:
        if frames[0][:1] in (RECEIPT, RESUME):
            self._outbox.hear(frames[0])
        else:
            self._thread._handle_subscription(frames)


def deliver(thread: Any) -> None:
    """Have the relay confirm what ``thread`` sends, if that can hear it."""
    if hasattr(thread, "_xpub_stream"):  # before ipykernel 7.2 the socket only sends
        thread.schedule(Delivery(thread).begin)
