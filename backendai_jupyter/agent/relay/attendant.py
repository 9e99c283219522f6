"""What must be said beside the forwarded messages of one kernel, in one thread.

The messages themselves go through C-level proxies; this thread gets copies of the shell
channel, and has a second way into two back-ends.  It

* hands the replies, and the headers of what is to be executed, to the journal,
* answers CurveZMQ handshakes (``zap.py``),
* welcomes every new iopub subscriber in the kernel's name, as the protocol says since 5.4;
  a kernel behind a relay sees one subscriber only, the relay,
* tells the people who watch a kernel what happened to it (``notify``), and gives the cells
  of a dead kernel the answers that it can no longer give,
* does the same for cells whose answer was lost because a relay before this one has died.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import threading
from collections.abc import Collection, Mapping, Sequence

import zmq

from backendai_jupyter.agent.relay.cells import Cell, Cells
from backendai_jupyter.agent.relay.iopub import (
    ADOPT,
    KERNEL_CAME,
    KERNEL_GONE,
    RECORDS,
    SETTLE,
)
from backendai_jupyter.agent.relay.messages import Signer, delimiter_after_route
from backendai_jupyter.agent.relay.records import Kind
from backendai_jupyter.agent.relay.zap import Doorkeeper

COPIES = "inproc://copies"  # the shell proxy writes all that it forwards
NEWS = "inproc://news"  # the iopub back-end subscribes to it beside the kernel
REPLIES = "inproc://replies"  # the shell back-end receives from it beside the kernel
QUESTIONS = "inproc://questions"  # the shell front-end takes requests from it
MONITOR = "inproc://monitor"  # events of the shell back-end
ORDERS = "inproc://orders"

_DEATH = "KernelDied"
_LOST = "KernelReplyLost"
_LOST_TEXT = (
    "The answer of the kernel was lost: the relay process that forwards its messages has ended "
    "and was started again."
)
_UNSURE_TEXT = f"{_LOST_TEXT} The cell may have run; some of its output may be missing."
_RAN_TEXT = f"{_LOST_TEXT} The cell has run, and its output is complete."
_QUESTIONER = b"backendai-relay-asks"  # our routing id, as a client of the kernel
_COPIES_PER_TURN = 1_000  # a flood on the shell channel must not keep new clients out
_MAX_HEADER_BYTES = 65_536
_LOOK_MILLIS = 100  # after which one who waits for the journal looks whether it is over

log = logging.getLogger(__name__)


class Attendant:
    """Owns its sockets from construction until ``close`` has joined its thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kernel_id: str,
        signer: Signer,
        public_key: bytes,
    ) -> None:
        self._kernel_id = kernel_id
        self._signer = signer
        self._cells = Cells()
        self._own_session = os.urandom(16).hex()
        self._doorkeeper = Doorkeeper(context, public_key)
        self._copies = _bound(context, zmq.PAIR, COPIES)
        self._news = _bound(context, zmq.XPUB, NEWS, {zmq.XPUB_VERBOSE: 1})
        # One message deep: the shell back-end must never choose it for a request.
        self._replies = _bound(context, zmq.DEALER, REPLIES, {zmq.RCVHWM: 1})
        self._records = _bound(context, zmq.PAIR, RECORDS)
        self._questions = _bound(context, zmq.DEALER, None, {zmq.ROUTING_ID: _QUESTIONER})
        self._questions.connect(QUESTIONS)
        self._answered: list[Cell] = []  # of an earlier relay: only their end was not seen
        self._kernel_answers = False  # and thus has nothing more to say about earlier cells
        self._complete: Collection[bytes] | None = None  # headers, once their output has come
        self._monitor = _bound(context, zmq.PAIR, None)
        self._monitor.connect(MONITOR)
        self._orders = _bound(context, zmq.PAIR, ORDERS)
        self._orders_in = _bound(context, zmq.PAIR, None)
        self._orders_in.connect(ORDERS)
        self._leaving = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"attendant {kernel_id}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def notify(self, text: str, *, dead: bool) -> None:
        """Publish ``text`` soon; call it from one thread only."""
        self._orders_in.send(json.dumps({"text": text, "dead": dead}).encode())

    def close(self) -> None:
        """End the thread and close every socket; carry out earlier orders first."""
        self._leaving.set()
        if self._thread.is_alive():
            self._orders_in.send(b"")
            self._thread.join()
        for socket in (
            self._doorkeeper.socket,
            self._copies,
            self._news,
            self._replies,
            self._records,
            self._questions,
            self._monitor,
            self._orders,
            self._orders_in,
        ):
            socket.close()

    def _run(self) -> None:
        try:
            self._attend()
        except Exception:  # the end of a thread must be seen
            log.exception("the attendant of kernel %s died; no new client gets in", self._kernel_id)

    def _attend(self) -> None:
        duties = {
            self._doorkeeper.socket: self._doorkeeper.answer,
            self._monitor: self._read_event,
            self._copies: self._read_copies,
            self._news: self._welcome,
            self._records: self._read_records,
            self._questions: self._read_answer,
        }
        poller = zmq.Poller()
        for socket in (*duties, self._orders):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            for socket, duty in duties.items():
                if socket in ready:
                    duty()
            if self._orders in ready:
                order = self._orders.recv()
                if not order:
                    return
                self._carry_out(**json.loads(order))

    def _read_copies(self) -> None:
        for _ in range(_COPIES_PER_TURN):
            try:
                # Not copied: a comm message may carry hundreds of megabytes in its last frames.
                frames = self._copies.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            small = [f.bytes if len(f) < _MAX_HEADER_BYTES else b"" for f in frames]
            self._hand_over(self._cells.observe(small), frames)

    def _hand_over(self, msg_type: str, frames: Sequence[zmq.Frame]) -> None:
        """Let the journal have what a client gets, and what it wants to be executed."""
        start = delimiter_after_route([frame.buffer for frame in frames])
        if not start or frames[0].bytes == _QUESTIONER:
            return
        if msg_type == "execute_request":
            self._record(bytes([Kind.REQUEST]), frames[0], frames[start + 2])
        elif msg_type.endswith("_reply"):
            self._record(bytes([Kind.SHELL]), frames[0], *frames[start + 1 :])

    def _read_records(self) -> None:
        """Take over the cells of an earlier relay, and ask the kernel whether it is done.

        It answers in turn: once it does, it has nothing more to say about any of them.  Its
        output comes by another way, on which some may still be coming.
        """
        adopted = False
        while self._records.poll(0):
            what, *parts = self._records.recv_multipart()
            if what != ADOPT:
                self._complete = set(parts)
                self._end_adopted()
                continue
            adopted = True
            route, header, answered = parts
            cell = Cell((route,), header)
            if answered:
                self._answered.append(cell)
            else:
                self._cells.adopt(cell)
        if adopted:
            request = self._signer.build("kernel_info_request", {}, session=self._own_session)
            msg_id = json.loads(request[2])["msg_id"]
            self._record(SETTLE + msg_id.encode())
            self._questions.send_multipart(request)

    def _read_answer(self) -> None:
        self._questions.recv_multipart()
        self._read_copies()
        self._kernel_answers = True
        self._end_adopted()

    def _end_adopted(self) -> None:
        if not self._kernel_answers or self._complete is None:
            return
        for cell in self._answered:
            if cell.header not in self._complete:
                self._say_idle(cell)
        self._answered.clear()
        for cell in self._cells.take_adopted():
            if cell.header in self._complete:
                self._end(cell, _LOST, _RAN_TEXT)
            else:
                self._end(cell, _LOST, _UNSURE_TEXT)
                self._say_idle(cell)

    def _record(self, *parts: bytes | zmq.Frame) -> None:
        """Hand something to the thread of the journal, which may not be there yet, or any more."""
        while not self._leaving.is_set():
            with contextlib.suppress(zmq.Again):
                self._records.send_multipart(parts, zmq.NOBLOCK)
                return
            self._records.poll(_LOOK_MILLIS, zmq.POLLOUT)

    def _read_event(self) -> None:
        event, _ = struct.unpack("=hi", self._monitor.recv_multipart()[0])
        if event == zmq.EVENT_CONNECTED:
            self._cells.kernel_connected()
            self._record(KERNEL_CAME)
        elif event == zmq.EVENT_DISCONNECTED:
            self._read_copies()  # what it still answered came before its end
            self._cells.kernel_disconnected()
            self._record(KERNEL_GONE)

    def _welcome(self) -> None:
        change = self._news.recv()
        # Before its first reply the kernel's session is unknown, and its own welcome is due.
        if change[:1] == b"\x01" and self._cells.connected and self._cells.session:
            topic = change[1:]
            content = {"subscription": topic.decode(errors="replace")}
            self._publish("iopub_welcome", content, topic=topic)

    def _carry_out(self, *, text: str, dead: bool) -> None:
        waiting = self._cells.waiting()
        parent = waiting[0].header if waiting else b"{}"
        if not (dead and waiting):  # else it is said once, as the error of the cell
            line = text if text.endswith("\n") else f"{text}\n"
            self._publish("stream", {"name": "stderr", "text": line}, parent=parent)
        if not dead:
            return
        for cell in waiting[:1]:
            self._end(cell, _DEATH, text)
            self._say_idle(cell)
        for cell in waiting[1:]:  # queued behind it and never begun
            self._reply(cell, {"status": "aborted"})
            self._say_idle(cell)
        self._cells.forget()

    def _end(self, cell: Cell, name: str, text: str) -> None:
        error = {"ename": name, "evalue": text, "traceback": [text]}
        self._publish("error", error, parent=cell.header)
        self._reply(cell, {"status": "error", "execution_count": 0, **error})

    def _reply(self, cell: Cell, content: dict[str, object]) -> None:
        reply = self._signer.build(
            "execute_reply", content, session=self._session, parent=cell.header
        )
        self._replies.send_multipart([*cell.route, *reply])

    def _say_idle(self, cell: Cell) -> None:
        self._publish("status", {"execution_state": "idle"}, parent=cell.header)

    def _publish(
        self,
        msg_type: str,
        content: Mapping[str, object],
        *,
        parent: bytes = b"{}",
        topic: bytes | None = None,
    ) -> None:
        frames = self._signer.build(msg_type, content, session=self._session, parent=parent)
        if topic is None:
            topic = f"kernel.{self._kernel_id}.{msg_type}".encode()
        self._news.send_multipart([topic, *frames] if topic else frames)

    @property
    def _session(self) -> str:
        return self._cells.session or self._own_session


def _bound(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    address: str | None,
    options: dict[int, int | bytes] | None = None,
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    for option, value in {
        zmq.LINGER: 0,
        zmq.SNDHWM: 0,
        zmq.RCVHWM: 0,
        **(options or {}),
    }.items():
        socket.setsockopt(option, value)
    if address is not None:
        socket.bind(address)
    return socket
