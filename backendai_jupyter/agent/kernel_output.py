"""Runs inside a Python kernel: whoever writes faster than output is taken waits; nothing is lost.

The agent puts this file beside the kernel's connection file and the kernelspec has ipykernel run
``install`` when it starts (decision 016).  It uses what the kernel's image and this folder have.
What is written goes through three places, each with a bound: a stream's text that was not handed
over yet (``PIECE_CHARS``), the backlog of ipykernel's IOPub thread (``WAITING_BYTES``,
``WAITING_MESSAGES``) and the socket (``SOCKET_MESSAGES``), which says when it is full.  A writer
waits for room in the backlog; threads that keep the kernel reachable, and how a cell goes, do not.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import runpy
import signal
import sys
import threading
import time
from _signal import getsignal  # type: ignore[import-not-found] # that of `signal` is slow: enums
from asyncio import CancelledError
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from ipykernel.zmqshell import ZMQDisplayPublisher

PIECE_CHARS = 1 << 18  # more than this of a stream's text becomes more than one message
WAITING_BYTES, WAITING_MESSAGES = 1 << 20, 1000
SOCKET_MESSAGES = 16
SEND_MILLIS = 100  # after which a send that found no room looks whether the kernel ends
END_GRACE_S = 1.0  # for what waits when the kernel ends

# Few and small, and a cell that was interrupted must be able to say so.
_NEVER_WAIT = (b".status", b".execute_input", b".error")


class Wait:
    """What one thread sleeps on; a plain lock, because signals interrupt that at any point."""

    def __init__(self, *, for_room: bool) -> None:
        self.for_room = for_room
        self._lock = threading.Lock()
        self._lock.acquire()

    def fire(self) -> None:
        """Wake the thread; does nothing the second time."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def sleep(self) -> None:
        """Wait to be woken; SIGINT ends it, in a coroutine by ``CancelledError``."""
        with _cancelled_by_sigint(self):
            self._lock.acquire()


class Backlog:
    """What the IOPub thread was given and has not sent yet, and who waits for it."""

    def __init__(self, thread: Any, never_wait: set[threading.Thread]) -> None:
        self._thread = thread
        self._events = thread._events
        self._never_wait = never_wait
        self._added_bytes = 0
        self._taken_bytes, self._sending = 0, False  # written by the IOPub thread only
        self._adding = threading.Lock()
        self._waits: dict[Wait, None] = {}
        self._hurried = False  # the cell was interrupted: it is to end before its output went out
        self._ended = False

    def add(self, size: int) -> None:
        with self._adding:
            self._added_bytes += size

    def deal_with_next(self) -> None:
        """Take the oldest event, in the IOPub thread, and do it."""
        self._sending = True  # before it is taken: it is always here or there
        event = self._events.popleft()
        try:
            event()
        finally:
            self._sending = False
            self._taken_bytes += getattr(event, "size", 0)
            if not self._events:
                self._hurried = False
                # A signal between an event and its ``add`` must not cost room for good.
                self._taken_bytes = self._added_bytes
            if self._waits and self._level() <= 0.5:
                for wait in list(self._waits):
                    if wait.for_room:
                        wait.fire()

    def wait_for_room(self) -> None:
        """Return when something may be added; at the kernel's end raise instead of waiting."""
        if not self._events or self._level() <= 1 or not self._may_wait():
            return
        while self._level() > 0.5:
            if self._ended:
                raise _end_of_writer()
            with self._registered(Wait(for_room=True)) as wait:
                # Looked at again: the IOPub thread may have made room before it knew of us.
                if self._level() > 0.5 and not self._ended:
                    wait.sleep()

    def wait_until_sent(self) -> None:
        """Return when all that is in the backlog now was sent, or need not be waited for."""
        self._hurried |= isinstance(sys.exc_info()[1], (KeyboardInterrupt, CancelledError))
        waits = (self._events or self._sending) and not self._hurried and not self._ended
        if not waits or not self._may_wait():
            return
        with self._registered(Wait(for_room=False)) as wait:
            self._thread.schedule(wait.fire)
            if not self._ended:
                wait.sleep()

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ended = True
        for wait in list(self._waits):
            wait.fire()

    def _level(self) -> float:
        """Return how full it is: 1 is the bound."""
        messages = len(self._events)
        waiting_bytes = self._added_bytes - self._taken_bytes
        # Without an event there is nothing whose sending would ever wake a writer.
        return max(messages / WAITING_MESSAGES, waiting_bytes / WAITING_BYTES) if messages else 0

    def _may_wait(self) -> bool:
        return self._thread.serves_caller() and threading.current_thread() not in self._never_wait

    @contextlib.contextmanager
    def _registered(self, wait: Wait) -> Iterator[Wait]:
        self._waits[wait] = None
        try:
            yield wait
        except (KeyboardInterrupt, CancelledError):
            self._hurried = True
            raise
        finally:
            del self._waits[wait]


class Message:
    """One message on its way to the socket."""

    def __init__(self, send: Callable[[], None], frames: list[Any]) -> None:
        self._send = send
        self.size = sum(memoryview(frame).nbytes for frame in frames)

    def __call__(self) -> None:
        self._send()


class Batch(defaultdict[Any, StringIO]):
    """Text of one stream, by the cell that it belongs to; sends itself when it is its turn."""

    def __init__(self, stream: PatientStream) -> None:
        super().__init__(StringIO)
        self._stream = stream
        self.size = 0  # in characters

    def __call__(self) -> None:
        self._stream.send(self)


class PatientThread(IOPubThread):
    """ipykernel's IOPub thread, which waits for the socket, and whose writers wait for it."""

    backlog: Backlog
    _give_up_at = math.inf

    @classmethod
    def adopt(cls, thread: Any, never_wait: set[threading.Thread]) -> None:
        """Make ipykernel's thread one of these, in which the threads ``never_wait`` do not wait."""
        thread.backlog = Backlog(thread, never_wait)
        thread.__class__ = cls
        thread.schedule(thread._limit_socket)
        atexit.register(thread.prepare_stop)  # before ipykernel's own, which was registered first

    def serves_caller(self) -> bool:
        """Return whether the caller is another thread of the same process, while this one runs."""
        return self.thread.is_alive() and threading.current_thread() is not self.thread

    def _limit_socket(self) -> None:
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, SOCKET_MESSAGES)
        self.socket.setsockopt(zmq.SNDTIMEO, SEND_MILLIS)
        self._event_puller.on_recv(self._handle_event)
        if hasattr(self, "_xpub_stream"):
            self._xpub_stream.on_recv(self._handle_subscription)

    def _handle_subscription(self, frames: Any) -> None:
        # Whoever was connecting when the limit was set has the former one.
        self.socket.setsockopt(zmq.SNDHWM, SOCKET_MESSAGES)
        super()._handle_subscription(frames)  # type: ignore[no-untyped-call] # its base

    def schedule(self, f: Callable[[], None]) -> None:
        if self.thread.is_alive():
            self._events.append(f)
            self.wake()
        else:
            f()

    def wake(self) -> None:
        with contextlib.suppress(zmq.Again):  # a full pipe wakes it as well
            self._event_pipe.send(b"", zmq.NOBLOCK)

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        send, frames = partial(self._really_send, *args, **kwargs), args[0]
        if not self.serves_caller():
            send()  # in the place that its event has in the backlog
            return
        if not bytes(frames[0]).endswith(_NEVER_WAIT):
            self.backlog.wait_for_room()
        message = Message(send, frames)
        self.backlog.add(message.size)
        self.schedule(message)

    def prepare_stop(self) -> None:
        """Have what waits sent for a moment more, in which a reader that reads gets it."""
        self.backlog.end()
        self._give_up_at = time.monotonic() + END_GRACE_S
        if self.thread.is_alive():
            self.io_loop.add_callback(self._handle_event, [])

    def _handle_event(self, msg: list[Any]) -> None:
        for _ in range(len(self._events)):
            self.backlog.deal_with_next()

    def _really_send(self, *args: Any, **kwargs: Any) -> None:
        if self._give_up_at < math.inf:
            kwargs["copy"] = True  # pyzmq has already ended what takes care of shared memory
        self._patiently(partial(super()._really_send, *args, **kwargs))

    def _send_welcome_message(self, subscription: str) -> None:
        self._patiently(partial(super()._send_welcome_message, subscription))

    def _patiently(self, send: Callable[[], None]) -> None:
        while time.monotonic() < self._give_up_at:
            with contextlib.suppress(zmq.Again):
                send()
                return


class PatientStream(OutStream):
    """ipykernel's stdout or stderr, whose text keeps its place among other messages."""

    _buffers: Batch
    _being_sent: Batch | None = None

    @classmethod
    def adopt(cls, stream: Any) -> None:
        with stream._buffer_lock:
            batch = Batch(stream)
            batch.update(stream._buffers)
            stream._buffers = batch
            stream.__class__ = cls
            vars(stream).pop("write", None)  # IPython puts it there around each cell
        os.register_at_fork(after_in_child=stream.begin_in_child)

    def begin_in_child(self) -> None:
        """Forget, in a forked process, what its parent had written: the parent sends that."""
        self._buffer_lock = threading.RLock()
        self._buffers, self._being_sent = Batch(self), None

    def write(self, string: str) -> int:
        batch = self._buffers
        if not batch.size and self.pub_thread is not None:  # a batch that has begun is small
            self.pub_thread.backlog.wait_for_room()
        super().write(string)
        batch.size += len(string)
        if batch.size > PIECE_CHARS:
            self._flush()
        return len(string)

    def flush(self) -> None:
        thread = self.pub_thread
        if thread is None or not thread.serves_caller():
            super().flush()  # type: ignore[no-untyped-call]
            return
        self._hand_over()
        caller = sys._getframe(1).f_code
        if caller is ZMQDisplayPublisher._flush_streams.__code__:
            return  # the text has its place before what is displayed
        try:
            thread.backlog.wait_until_sent()
        except (KeyboardInterrupt, CancelledError):
            if caller is not Kernel.execute_request.__code__:
                raise  # but not in a cell's last flush: it would cost the reply

    def send(self, batch: Batch) -> None:
        """Send a batch, in the IOPub thread."""
        self._being_sent, pending = batch, self._flush_pending
        try:
            super()._flush()  # type: ignore[no-untyped-call]
        finally:
            self._being_sent = None
            self._flush_pending = pending  # or each write would start one more timer

    def _flush(self) -> None:
        if self.pub_thread is not None and self.pub_thread.thread.is_alive():
            self._flush_pending = False
            self._hand_over()
        else:
            super()._flush()  # type: ignore[no-untyped-call]

    def _hand_over(self) -> None:
        """Give the IOPub thread what was written, behind what it was given before."""
        events, fresh = self.pub_thread._events, Batch(self)
        with self._buffer_lock:
            batch = self._buffers
            if not batch:
                return
            # Python runs no signal handler between these two lines, so text is never in neither.
            self._buffers = fresh
            events.append(batch)
        self.pub_thread.backlog.add(batch.size)
        self.pub_thread.wake()

    def _rotate_buffers(self) -> Batch:
        if self._being_sent is not None:
            return self._being_sent
        with self._buffer_lock:
            batch, self._buffers = self._buffers, Batch(self)
        return batch


def install(shell: Any) -> None:
    """Limit what the kernel of this IPython shell keeps of output that is not taken."""
    start = shell.kernel.start

    def limit_and_start() -> None:
        try:
            _limit(shell)
        except (AttributeError, OSError):  # an ipykernel that is made otherwise
            shell.kernel.log.warning("Output that is not taken may be lost.", exc_info=True)
        start()

    # Not now: while a cell runs, as this does, IPython has put a `write` of its own on the streams.
    shell.kernel.start = limit_and_start
    runpy.run_path(str(Path(__file__).with_name("kernel_members.py")))["install"](shell)


def _limit(shell: Any) -> None:
    kernel, thread = shell.kernel, shell.kernel.iopub_thread
    subshells: Any = getattr(kernel, "shell_channel_thread", None)  # ipykernel 6 has none
    PatientThread.adopt(thread, {kernel.control_thread, subshells})
    for stream in (s for s in (sys.stdout, sys.stderr) if type(s) is OutStream):
        PatientStream.adopt(stream)
    kernel._execute_sleep = 0  # which before each reply hopes that output has gone: here it has
    shell.observe(lambda change: change.new and thread.backlog.end(), "exit_now")
    runpy.run_path(str(Path(__file__).with_name("kernel_delivery.py")))["deliver"](thread)
    runpy.run_path(str(Path(__file__).with_name("kernel_reply.py")))["install"](kernel)


@contextlib.contextmanager
def _cancelled_by_sigint(wait: Wait) -> Iterator[None]:
    """Have SIGINT end a wait also in a cell with ``await``.

    There ipykernel's handler only asks the event loop to cancel the cell, and the loop waits too.
    """
    handler: Any = getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or getattr(handler, "__module__", "") != IPythonKernel.__module__:
        yield
        return
    interrupted = False

    def note(signum: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        handler(signum, frame)
        wait.fire()

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupted:
        raise CancelledError


def _end_of_writer() -> BaseException:
    """Return what ends a writer for whose output there is no room when the kernel ends."""
    if threading.current_thread() is not threading.main_thread():
        return SystemExit()  # ends a thread without a word
    if getsignal(signal.SIGINT) is signal.default_int_handler:
        return KeyboardInterrupt("The kernel ends.")
    return CancelledError()  # in a coroutine, where a KeyboardInterrupt would end the event loop
