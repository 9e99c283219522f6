"""Runs beside a member's kernel: what the other members ask to be run there, it asks the kernel.

One cell at a time; those of several callers wait for each other.  A caller that is gone, with its
kernel or its node, has its cell interrupted.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import zmq

from .kernel import Kernel
from .place import PORT, Doorkeeper, Place
from .protocol import (
    DONE,
    OUTPUT,
    PING,
    PONG,
    RUN,
    STARTED,
    STOP,
    TOOK,
    WINDOW_BYTES,
    Message,
    packed,
)

log = logging.getLogger("backendai_members")

CONNECTION_FILE = "connection.json"
TICK_MILLIS = 100
GONE_S = 5.0  # after which a caller that cannot be reached is taken not to come back
BIND_AGAIN_S = 0.5
LOST_REPLY_S = 1.0  # after which an idle kernel is taken not to reply: see ``_end_without_reply``
_ABORTED = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
_PR_SET_PDEATHSIG = 1


@dataclass
class Run:
    """A cell that a caller asked for; ``request`` is its id once the kernel has it."""

    caller: bytes
    id: bytes
    code: str
    request: str = ""
    started: bool = False
    stopped: bool = False
    reply: bytes = b""
    idle_since: float | None = None  # None: the kernel works on it, or will
    on_their_way: int = 0  # bytes of output that the caller has not taken
    gone_since: float | None = None


class Listener:
    """Serves the members of one session, whose secret they have."""

    def __init__(self, place: Place, context: zmq.Context[Any], kernel: Kernel) -> None:
        self._place = place
        self._kernel = kernel
        keys = place.keys()
        self._door = Doorkeeper(context, keys)
        self._callers: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        keys.guard(self._callers, accepts=True)
        self._callers.router_mandatory = True
        self._knock = ""  # the request by which we learn that the kernel's output comes to us
        self._hears = False
        self._waiting: deque[Run] = deque()
        self._current: Run | None = None
        self._next_look = 0.0
        self._answers = {
            self._door.socket: self._door.answer,
            self._callers: self._hear_caller,
            kernel.shell: self._hear_reply,
            kernel.control: lambda: kernel.control.recv_multipart(),
            kernel.iopub: self._hear_output,
        }

    def serve(self) -> None:
        self._bind()
        poller = zmq.Poller()
        while True:
            for one in self._answers:
                reads = one is not self._kernel.iopub or self._has_room()
                poller.register(one, zmq.POLLIN if reads else 0)
            for one, _ in poller.poll(TICK_MILLIS):
                self._answers[one]()
            if (now := time.monotonic()) >= self._next_look:
                self._next_look = now + TICK_MILLIS / 1000
                self._look_after(now)

    def _bind(self) -> None:
        """Listen where our name leads; a network may come later than the kernel."""
        said, bound = "", set[str]()
        while True:
            try:
                found = socket.getaddrinfo(self._place.host, PORT, type=socket.SOCK_STREAM)
                for address in {str(info[4][0]) for info in found} - bound:
                    name = f"[{address}]" if ":" in address else address
                    self._callers.bind(f"tcp://{name}:{PORT}")
                    bound.add(address)
            except (OSError, zmq.ZMQError) as error:
                if said != (said := str(error)):
                    log.warning("cannot listen at %s: %s", self._place.host, error)
                time.sleep(BIND_AGAIN_S)
            else:
                return

    def _has_room(self) -> bool:
        return self._current is None or self._current.on_their_way < WINDOW_BYTES

    def _hear_caller(self) -> None:
        caller, kind, *frames = self._callers.recv_multipart()
        if kind == PING:
            self._say(caller, PONG)
        elif kind == RUN:
            run_id, code = frames
            self._waiting.append(Run(caller, run_id, json.loads(code)))
            self._go_on()
        elif (run := self._find(caller, frames[0])) is not None:
            if kind == STOP:
                self._stop(run)
            elif kind == TOOK:
                run.on_their_way -= json.loads(frames[1])

    def _find(self, caller: bytes, run_id: bytes) -> Run | None:
        return next((r for r in self._runs() if (r.caller, r.id) == (caller, run_id)), None)

    def _runs(self) -> list[Run]:
        return [*([self._current] if self._current else []), *self._waiting]

    def _go_on(self) -> None:
        """Give the kernel the next cell, if it has none and we hear it."""
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
        if self._current is None or self._current.request:
            return
        if self._hears:
            self._current.request = self._kernel.execute(self._current.code)
        else:
            self._knock = self._kernel.listen()

    def _stop(self, run: Run) -> None:
        run.stopped = True
        if run.started:
            self._kernel.interrupt()
        elif not run.request:
            self._end(run, packed(_ABORTED))
        # Else the kernel has it behind a cell that is none of ours to interrupt.

    def _end(self, run: Run, reply: bytes) -> None:
        self._say(run.caller, DONE, run.id, reply)
        if run is self._current:
            self._current = None
        else:
            self._waiting.remove(run)
        self._go_on()

    def _hear_reply(self) -> None:
        reply, run = self._kernel.reply(), self._current
        if reply is not None and run is not None and reply.parent == run.request:
            run.reply = reply.content
            self._end_if_done(run)

    def _hear_output(self) -> None:
        message, run = self._kernel.output(), self._current
        if message is None or not message.parent:
            return
        if message.parent == self._knock:
            self._hears = True
            self._go_on()
        elif run is not None and message.parent == run.request:
            self._pass_on(run, message)

    def _pass_on(self, run: Run, message: Message) -> None:
        if message.kind == "status":
            idle = json.loads(message.content)["execution_state"] == "idle"
            run.idle_since = time.monotonic() if idle else None
            self._end_if_done(run)
        elif message.kind == "execute_input":
            # Not at the first status: until here ipykernel ignores an interrupt.
            run.started = True
            self._say(run.caller, STARTED, run.id)
            if run.stopped:
                self._kernel.interrupt()
        else:
            run.on_their_way += message.size
            self._say(run.caller, OUTPUT, run.id, *message.frames())

    def _end_if_done(self, run: Run) -> None:
        if run.idle_since is not None and run.reply:
            self._end(run, run.reply)

    def _end_without_reply(self, now: float) -> None:
        """End a cell that was interrupted just outside of its code: ipykernel sends no reply."""
        run = self._current
        if run is not None and run.idle_since is not None and now - run.idle_since > LOST_REPLY_S:
            self._end(run, packed(_ABORTED))

    def _look_after(self, now: float) -> None:
        if self._current is not None and not self._current.request and not self._hears:
            self._knock = self._kernel.listen()
        self._end_without_reply(now)
        for run in self._runs():
            if self._say(run.caller, PONG):
                run.gone_since = None
                continue
            run.gone_since = run.gone_since or now
            if now - run.gone_since > GONE_S and not run.stopped:
                log.warning("the caller of a cell is gone; the cell is interrupted")
                self._stop(run)
            if run.stopped:
                run.on_their_way = 0  # nobody takes it, and the kernel must not wait for that

    def _say(self, caller: bytes, kind: bytes, *frames: bytes) -> bool:
        """Return whether there is a connection to the caller."""
        with contextlib.suppress(zmq.ZMQError):
            self._callers.send_multipart([caller, kind, *frames])
            return True
        return False


def main(kernel_pid: int) -> None:
    # A kernel that is killed must not leave us behind, nor its interrupt, which the agent sends
    # to the process group, end us.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != kernel_pid:  # it was killed before
        return
    context: zmq.Context[Any] = zmq.Context()
    place = Place.here()
    connection = json.loads((place.run_dir / CONNECTION_FILE).read_text())
    Listener(place, context, Kernel(context, connection)).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
