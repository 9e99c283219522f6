"""A kernel's iopub channel: one thread takes what the kernel publishes, keeps it, passes it on.

The kernel's output goes to the journal on disk, from there to those who read the journal, and
to stock clients that subscribed to the ZeroMQ front.  Nobody misses any of it: while a reader
or a subscriber is far behind, nothing is taken from the kernel, which then blocks its writer.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from backendai_jupyter.agent.relay.audience import Audience
from backendai_jupyter.agent.relay.chronicle import Chronicle, read_header
from backendai_jupyter.agent.relay.executions import Execution
from backendai_jupyter.agent.relay.messages import DELIMITER, Signer, delimiter_after_route
from backendai_jupyter.agent.relay.pace import Pace, Traffic
from backendai_jupyter.agent.relay.receipts import Receipts, is_mark, read_mark
from backendai_jupyter.agent.relay.records import Frame, Kind

# The attendant hands over what passes on the shell channel, and learns which executions an
# earlier relay has left without an end.
RECORDS = "inproc://records"
STDIN = "inproc://stdin-copies"
CONTROL = "inproc://control-copies"
KERNEL_GONE, KERNEL_CAME = b"gone", b"came"  # the attendant says so, in place of a record
SETTLE = b"settle "  # or asks, naming a request, to be told when its output has come to its end
ADOPT, SETTLED = b"adopt", b"settled"  # what it is told

_UNSUBSCRIBE, _SUBSCRIBE = b"\x00", b"\x01"
_BURST_MESSAGES, _BURST_BYTES = 256, 1 << 20  # in one turn
_GATHER_S = 0.003  # of a flood, in which the queues have room for what comes
_COPIED_FRAMES = 6  # topic to metadata; what follows may be large and is not copied
_MAX_BEHIND_BYTES = 16 << 20  # of a reader; an interrupt is seen after what comes before it
_RETRY_MS = 20  # a subscriber that is full says when it is not, but not in every case
_PAUSE_MS = 1_000  # after something that must not happen
_TELL_EVERY_S = 60.0  # that the disk cannot be written

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]
Part = bytes | zmq.Frame


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where a kernel's journal is, how large it may become, and where it can be read."""

    directory: Path
    max_bytes: int
    socket: Path


class IopubChannel:
    """Forwards the iopub channel while ``run`` runs; all its sockets belong to others."""

    def __init__(
        self,
        kernel_id: str,
        place: JournalPlace,
        signer: Signer,
        listening: socket.socket,
        *,
        front: Socket,
        back: Socket,
        records: Socket,
        stdin: Socket,
        control: Socket,
        traffic: Traffic,
    ) -> None:
        self._kernel_id = kernel_id
        self._place = place
        self._signer = signer
        self._front, self._front_fd = front, front.FD
        self._back = back
        self._records = records
        self._copies = {stdin: Kind.STDIN, control: Kind.CONTROL}
        self._poller = zmq.Poller()
        for one in (front, records, *self._copies):
            self._poller.register(one, zmq.POLLIN)
        self._audience = Audience(listening, self._poller)
        self._pace = Pace(traffic, gather_s=_GATHER_S)
        self._receipts = Receipts()
        self._adopted: list[Execution] = []  # by the attendant, from an earlier relay
        self._settling = ""
        self._chronicle: Chronicle | None = None
        self._held: deque[Sequence[Part]] = deque()  # for subscribers that have no room
        self._told_at = -_TELL_EVERY_S

    def run(self, steering: Socket) -> None:
        """Forward until there is a message on ``steering``."""
        self._poller.register(steering, zmq.POLLIN)
        try:
            if self._chronicle is None:
                self._chronicle = self._open_chronicle()
            self._forward(steering, self._chronicle)
        finally:
            self._poller.unregister(steering)

    def close(self) -> None:
        """Close the journal and leave its readers; not while ``run`` runs."""
        self._audience.close()
        if self._chronicle is not None:
            self._chronicle.close()

    def _open_chronicle(self) -> Chronicle:
        """Read back what a relay before this one has left; it may take a while."""
        chronicle = Chronicle(
            self._place.directory,
            self._place.max_bytes,
            self._signer,
            keep_from=self._audience.keep_from,
        )
        self._receipts = Receipts(chronicle.stamp)
        for execution in chronicle.executions.going_on():
            if execution.route:
                answered = b"answered" if execution.replied else b""
                self._adopted.append(execution)
                adopted = [ADOPT, execution.route, execution.header, answered]
                self._records.send_multipart(adopted)
        return chronicle

    def _forward(self, steering: Socket, chronicle: Chronicle) -> None:
        ready: Mapping[object, int] = {}
        while steering not in ready:
            try:
                ready = self._wait(chronicle)
                self._turn(ready, chronicle)
            except Exception:  # whatever it was, output must go on
                log.exception("iopub of kernel %s stumbled", self._kernel_id)
                ready = {steering: zmq.POLLIN} if steering.poll(_PAUSE_MS) else {}
        steering.recv()

    def _wait(self, chronicle: Chronicle) -> Mapping[object, int]:
        rest_s = self._pace.rest_s(time.monotonic())
        paused = rest_s > 0 or self._is_paused(chronicle)
        self._poller.register(self._back, 0 if paused else zmq.POLLIN)
        # The front is always said to have room; its file descriptor tells of changes.
        self._poller.register(self._front_fd, zmq.POLLIN if self._held else 0)
        save_in_s = chronicle.save_in_s()
        waits_s = [wait_s for wait_s in (save_in_s, rest_s or None) if wait_s is not None]
        timeout_ms = int(min(waits_s) * 1000) + 1 if waits_s else None
        if self._held:
            timeout_ms = _RETRY_MS
        return dict(self._poller.poll(timeout_ms))

    def _is_paused(self, chronicle: Chronicle) -> bool:
        """Return whether somebody is so far behind that the kernel must wait."""
        position = self._audience.keep_from()
        behind_bytes = 0 if position is None else chronicle.journal.end - position
        return (
            bool(self._held)
            or behind_bytes > min(self._place.max_bytes // 2, _MAX_BEHIND_BYTES)
            or self._audience.memory_is_full()
        )

    def _turn(self, ready: Mapping[object, int], chronicle: Chronicle) -> None:
        began_s = time.monotonic()
        messages = size_bytes = 0
        if self._front in ready:
            self._take_subscriptions()
        for copies, kind in self._copies.items():
            if copies in ready:
                self._take_copies(copies, kind, chronicle)
        if self._back in ready:
            messages, size_bytes = self._take_output(chronicle)
        if self._records in ready:  # after the output: a reply is its end to some clients
            self._take_records(chronicle)
        self._commit(chronicle)
        if word := self._receipts.word():
            self._back.send(word)
        self._push()
        self._audience.serve(ready, chronicle)
        self._audience.pump(chronicle)
        if messages:
            more = messages == _BURST_MESSAGES or size_bytes > _BURST_BYTES
            now_s = time.monotonic()
            self._pace.passed(messages, size_bytes, began_s=began_s, now_s=now_s, more=more)
        if chronicle.save_in_s() == 0:
            chronicle.save()

    def _take_subscriptions(self) -> None:
        """Pass on who subscribes to what: the attendant welcomes them."""
        with contextlib.suppress(zmq.Again):
            while True:
                change = self._front.recv(zmq.NOBLOCK)
                if change[:1] in {_SUBSCRIBE, _UNSUBSCRIBE}:
                    self._back.send(change)

    def _take_output(self, chronicle: Chronicle) -> tuple[int, int]:
        """Take what the kernel has published; return how many messages, of how many bytes."""
        messages = size_bytes = 0
        while messages < _BURST_MESSAGES and size_bytes <= _BURST_BYTES:
            try:
                message = _receive(self._back)
            except zmq.Again:
                break
            messages += 1
            size_bytes += self._publish(message, chronicle)
        return messages, size_bytes

    def _publish(self, message: list[Part], chronicle: Chronicle) -> int:
        """Take a message of the kernel for the journal and subscribers; return its size in bytes.

        What the kernel sends again, and is here already, is left out.
        """
        if DELIMITER not in message:
            self._held.append(message)
            return 0  # no message of Jupyter's
        delimiter, stamp = message.index(DELIMITER), b""
        frames = [_buffer(part) for part in message[delimiter + 1 :]]
        size_bytes = sum(map(len, frames))
        if (mark := read_mark(message, delimiter)) is not None:
            stamp = self._receipts.takes(mark, size_bytes)
            if not stamp:
                return size_bytes
            del message[delimiter - 1]
        self._held.append(message)
        self._take(Kind.IOPUB, frames, chronicle, stamp)
        if self._settling and chronicle.idle_of == self._settling:
            self._settle()
        return size_bytes

    def _settle(self) -> None:
        """Tell the attendant which executions have all their output here.

        Of a kernel without numbers that is not known: something may have been lost.
        """
        complete = [e.header for e in self._adopted if e.idle and self._receipts.numbered]
        self._records.send_multipart([SETTLED, *complete])
        self._settling = ""
        self._adopted.clear()

    def _take_records(self, chronicle: Chronicle) -> None:
        """Take what the attendant saw on the shell channel."""
        for _ in range(_BURST_MESSAGES):
            try:
                parts = self._records.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if len(parts) > 1:
                kind = Kind(parts[0].bytes[0])
                if kind is Kind.REQUEST:
                    self._pace.asked(time.monotonic())
                self._take(kind, [p.buffer for p in parts[1:]], chronicle)
            else:
                self._hear(parts[0].bytes, chronicle)

    def _hear(self, word: bytes, chronicle: Chronicle) -> None:
        if word == KERNEL_GONE:
            chronicle.kernel_gone()
            self._receipts.kernel_gone()
        elif word == KERNEL_CAME:
            chronicle.kernel_came()
            self._receipts.kernel_came()
        else:
            self._settling = word.removeprefix(SETTLE).decode()
            if not self._receipts.numbered:
                self._settle()

    def _take_copies(self, copies: Socket, kind: Kind, chronicle: Chronicle) -> None:
        """Take what the kernel sends to a client, from copies of both directions."""
        wanted = "_request" if kind is Kind.STDIN else "_reply"
        for _ in range(_BURST_MESSAGES):
            try:
                parts = copies.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            frames = [part.buffer for part in parts]
            start = delimiter_after_route(frames)
            if start and read_header(bytes(frames[start + 2])).msg_type.endswith(wanted):
                self._take(kind, [frames[0], *frames[start + 1 :]], chronicle)

    def _take(
        self, kind: Kind, frames: Sequence[Frame], chronicle: Chronicle, stamp: bytes = b""
    ) -> None:
        try:
            taken = chronicle.take(kind, frames, stamp)
        except ValueError as error:
            log.error("kernel %s: not in the journal: %s", self._kernel_id, error)
            return
        if taken is not None and kind is Kind.IOPUB:
            self._audience.tell(chronicle.state, *taken)

    def _commit(self, chronicle: Chronicle) -> None:
        """Write what was taken; the readers who are here get what cannot be written."""
        first_seq = chronicle.journal.written_seq + 1
        unwritten = chronicle.commit()
        if not unwritten:
            return
        self._audience.remember(unwritten, first_seq)
        if time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._told_at = time.monotonic()
            log.error("the journal of kernel %s: %s", self._kernel_id, chronicle.journal.trouble)
            frames = chronicle.trouble_notice()
            self._held.append([b"kernel.stream", DELIMITER, *frames])
            self._take(Kind.IOPUB, frames, chronicle)
            self._commit(chronicle)

    def _push(self) -> None:
        """Send to the subscribers as far as each of them has room."""
        with contextlib.suppress(zmq.Again):
            while self._held:
                self._front.send_multipart(self._held[0], zmq.NOBLOCK)
                self._held.popleft()


def _receive(source: Socket) -> list[Part]:
    """Return the next message; raises ``zmq.Again`` when there is none."""
    parts: list[Part] = [source.recv(zmq.NOBLOCK)]
    copied = _COPIED_FRAMES
    while source.getsockopt(zmq.RCVMORE):  # much faster than the attribute
        parts.append(source.recv(copy=len(parts) < copied))
        if len(parts) == 2 and is_mark(parts[1]):
            copied += 1
    return parts


def _buffer(part: Part) -> Frame:
    return part if isinstance(part, bytes) else part.buffer
