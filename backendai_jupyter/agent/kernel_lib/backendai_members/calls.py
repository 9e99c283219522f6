"""One cell on several other members at once, seen from the kernel that asks for it."""

from __future__ import annotations

import contextvars
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from .place import PORT, Keys
from .protocol import DONE, OUTPUT, PING, PONG, RUN, STARTED, STOP, TOOK, Message, packed
from .results import Result

ANSWER_S = 5.0  # within which a member says that it is there
FIRST_ANSWER_S = 30.0  # for the first time: the names of a new network take a while to spread
SAY_SO_S = 2.0  # after which a cell that has not begun is said to wait
TICK_MILLIS = 100
_RECONNECT_MILLIS = 100
_REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_known: set[str] = set()  # members that have answered this kernel, or were waited for in vain


class Audience(Protocol):
    """Who is shown what members say, while they say it."""

    def show(self, result: Result, message: Message) -> None: ...

    def note(self, host: str, text: str) -> None: ...

    def end(self, result: Result) -> None: ...


class Listening:
    """How long we have listened, in seconds; who waits for an answer waits by this clock.

    A cell here may hold the interpreter for long, and then nobody has listened meanwhile.
    """

    def __init__(self) -> None:
        self.for_s = 0.0
        self._looked_at = time.monotonic()

    def go_on(self) -> None:
        now = time.monotonic()
        self.for_s += min(now - self._looked_at, 2 * TICK_MILLIS / 1000)
        self._looked_at = now


class Line:
    """The cell on one other member, from the first word to the last."""

    def __init__(
        self,
        context: zmq.Context[Any],
        keys: Keys,
        code: str,
        result: Result,
        audience: Audience,
        listening: Listening,
    ) -> None:
        self.result = result
        self._code = code
        self._audience = audience
        self._id = uuid.uuid4().bytes
        self._listening = listening
        self._sent_at: float | None = None  # None: the member has not answered
        self._started = self._refused = False
        self._noted: set[str] = set()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        keys.guard(self.socket, accepts=False)
        self.socket.reconnect_ivl = _RECONNECT_MILLIS
        self.monitor = self.socket.get_monitor_socket(_REFUSED | zmq.EVENT_DISCONNECTED)
        self.socket.connect(f"tcp://{result.host}:{PORT}")
        self.socket.send_multipart([PING])

    @property
    def open(self) -> bool:
        return self.result.status == "running"

    def hear(self) -> None:
        """Receive what the member says, which must be there."""
        kind, *frames = self.socket.recv_multipart()
        if kind == PONG and self._sent_at is None:
            # Not before: a member that is given up must not begin with it later.
            self.socket.send_multipart([RUN, self._id, packed(self._code)])
            self._sent_at = self._listening.for_s
            _known.add(self.result.host)
        elif kind == STARTED:
            self._started = True
        elif kind == OUTPUT:
            message = Message.of("", frames[1:])
            self._audience.show(self.result, message)
            self.socket.send_multipart([TOOK, self._id, packed(message.size)])
        elif kind == DONE:
            reply = json.loads(frames[1])
            if reply["status"] == "ok":
                self._end("ok")
            else:  # or aborted, without a name
                name = reply.get("ename", "KeyboardInterrupt")
                self.result.fail(name, reply.get("evalue", ""))
                self._audience.end(self.result)

    def watch(self) -> None:
        """Receive what happened to the connection."""
        event = recv_monitor_message(self.monitor)["event"]
        if event & _REFUSED:
            self._refused = True  # or it was ending: so it is tried again
        elif self._sent_at is not None:
            while self.open and self.socket.poll(0):
                self.hear()  # what had come before
            self._end("lost", "the connection was lost: its kernel has ended, or its node is away")

    def look(self) -> None:
        """Give up, or say what there is to wait for."""
        listened_s = self._listening.for_s
        if self._sent_at is None:
            is_new = self.result.host not in _known and not self._refused
            if listened_s > (FIRST_ANSWER_S if is_new else ANSWER_S):
                _known.add(self.result.host)
                refused = "it does not let us in: it has another secret"
                self._end("lost", refused if self._refused else "it does not answer")
            elif is_new and listened_s > SAY_SO_S:
                self._note("has not answered yet; the cell waits for it")
        elif not self._started and listened_s - self._sent_at > SAY_SO_S:
            self._note("is busy; the cell waits for its turn")

    def stop(self) -> None:
        """Have the cell interrupted; one that was not sent has ended."""
        if self._sent_at is None:
            self._end("interrupted")
        else:
            self.socket.send_multipart([STOP, self._id])

    def abandon(self) -> None:
        self._end("lost", "it did not end by an interrupt, and was left alone")

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._audience.note(self.result.host, text)

    def _end(self, status: str, why: str = "") -> None:
        if self.open:
            self.result.end(status, evalue=why)
            self._audience.end(self.result)


class Call:
    """Runs a cell on members, in a thread, so that this kernel may run it meanwhile, too."""

    def __init__(
        self,
        code: str,
        results: Mapping[str, Result],
        keys: Callable[[], Keys],
        audience: Audience,
    ) -> None:
        self._code = code
        self._results = results
        self._keys = keys
        self._audience = audience
        self._stopping = self._abandoned = self._stopped = False
        self._ended = threading.Event()
        # The thread's output belongs to the same cell.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=[self._work], daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True

    def abandon(self) -> None:
        self._abandoned = True

    def wait(self) -> None:
        """Return when all members have ended; a signal may interrupt it."""
        while not self._ended.wait(1):
            """Each wait of its own, because some platforms let no signal into a long one."""

    def _work(self) -> None:
        try:
            if self._results:
                with zmq.Context() as context:
                    self._talk(context)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            for result in self._results.values():
                result.end("lost", evalue=f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _talk(self, context: zmq.Context[Any]) -> None:
        keys, listening = self._keys(), Listening()
        lines = [
            Line(context, keys, self._code, result, self._audience, listening)
            for result in self._results.values()
        ]
        try:
            while open_lines := [line for line in lines if line.open]:
                _exchange(open_lines)
                listening.go_on()
                for line in open_lines:
                    line.look()
                self._obey(open_lines)
        finally:
            for line in lines:
                line.close()

    def _obey(self, lines: Iterable[Line]) -> None:
        if self._stopping and not self._stopped:
            self._stopped = True
            for line in lines:
                line.stop()
        if self._abandoned:
            for line in lines:
                line.abandon()


def _exchange(lines: Iterable[Line]) -> None:
    """Wait a moment for what members say."""
    poller = zmq.Poller()
    answers: dict[zmq.Socket[Any], Callable[[], None]] = {}
    for line in lines:
        answers |= {line.socket: line.hear, line.monitor: line.watch}
    for one in answers:
        poller.register(one, zmq.POLLIN)
    for one, _ in poller.poll(TICK_MILLIS):
        answers[one]()
