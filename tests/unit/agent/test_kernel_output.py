"""Who waits for room in the output of a Python kernel, and until when."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable

import pytest

from backendai_jupyter.agent.kernel_output import (
    WAITING_BYTES,
    WAITING_MESSAGES,
    Backlog,
    Message,
)

SHORT_S = 0.1
LONG_S = 10.0


class ThreadThatSendsWhenTold:
    """ipykernel's IOPub thread as a backlog sees it."""

    def __init__(self) -> None:
        self._events: deque[Callable[[], object]] = deque()
        self.backlog = Backlog(self, set())

    def serves_caller(self) -> bool:
        return True

    def schedule(self, event: Callable[[], object]) -> None:
        self._events.append(event)

    def add(self, size: int, count: int = 1) -> None:
        for _ in range(count):
            self.schedule(Message(lambda: None, [bytes(size)]))
            self.backlog.add(size)

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.backlog.deal_with_next()


class Writer:
    """A thread that does one thing, which may wait."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.raised: BaseException | None = None
        self._work = work
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 # SystemExit is what is looked for
            self.raised = error

    def waits(self) -> bool:
        self.thread.join(SHORT_S)
        return self.thread.is_alive()

    def goes_on(self) -> bool:
        self.thread.join(LONG_S)
        return not self.thread.is_alive()


@pytest.fixture
def iopub() -> ThreadThatSendsWhenTold:
    return ThreadThatSendsWhenTold()


@pytest.mark.parametrize(
    ("size", "count"),
    [(WAITING_BYTES // 8, 9), (1, WAITING_MESSAGES + 1)],
    ids=["bytes", "messages"],
)
def test_a_writer_waits_above_the_bound_until_half_is_sent(
    iopub: ThreadThatSendsWhenTold, size: int, count: int
) -> None:
    iopub.add(size, count)
    writer = Writer(iopub.backlog.wait_for_room)
    assert writer.waits()
    iopub.send(count // 4)
    assert writer.waits()
    iopub.send(count // 2)
    assert writer.goes_on()


def test_a_writer_does_not_wait_below_the_bound(iopub: ThreadThatSendsWhenTold) -> None:
    iopub.add(WAITING_BYTES - 1)
    assert Writer(iopub.backlog.wait_for_room).goes_on()


def test_a_message_larger_than_the_bound_holds_writers_only_until_it_is_taken(
    iopub: ThreadThatSendsWhenTold,
) -> None:
    iopub.add(10 * WAITING_BYTES)
    writer = Writer(iopub.backlog.wait_for_room)
    assert writer.waits()
    iopub.send()
    assert writer.goes_on()


def test_a_thread_that_keeps_the_kernel_reachable_does_not_wait(
    iopub: ThreadThatSendsWhenTold,
) -> None:
    exempt: set[threading.Thread] = set()
    backlog = Backlog(iopub, exempt)
    iopub.schedule(bool)
    backlog.add(2 * WAITING_BYTES)

    def write() -> None:
        exempt.add(threading.current_thread())
        backlog.wait_for_room()
        backlog.wait_until_sent()

    assert Writer(write).goes_on()


def test_room_that_a_signal_made_us_count_wrongly_is_found_again(
    iopub: ThreadThatSendsWhenTold,
) -> None:
    iopub.backlog.add(2 * WAITING_BYTES)  # of a message that never came
    iopub.add(1)
    writer = Writer(iopub.backlog.wait_for_room)
    assert writer.waits()
    iopub.send()
    iopub.add(1)
    assert writer.goes_on()
    assert Writer(iopub.backlog.wait_for_room).goes_on()


def test_a_flush_returns_when_what_was_written_before_it_is_sent(
    iopub: ThreadThatSendsWhenTold,
) -> None:
    iopub.add(1)
    writer = Writer(iopub.backlog.wait_until_sent)
    assert writer.waits()
    iopub.add(1)
    iopub.send(2)
    assert writer.goes_on()


def test_a_flush_waits_for_what_is_being_sent(iopub: ThreadThatSendsWhenTold) -> None:
    begun, full = threading.Event(), threading.Event()

    def send_to_a_full_socket() -> None:
        begun.set()
        full.wait(LONG_S)

    iopub.schedule(send_to_a_full_socket)
    sender = Writer(iopub.send)
    assert begun.wait(LONG_S)
    writer = Writer(iopub.backlog.wait_until_sent)
    assert writer.waits()
    full.set()
    assert sender.goes_on()
    iopub.send()
    assert writer.goes_on()


def test_a_flush_of_nothing_returns_at_once(iopub: ThreadThatSendsWhenTold) -> None:
    assert Writer(iopub.backlog.wait_until_sent).goes_on()
    iopub.add(1)
    iopub.send()
    assert Writer(iopub.backlog.wait_until_sent).goes_on()


def test_sigint_ends_the_wait_and_the_flushes_that_follow_do_not_wait(
    iopub: ThreadThatSendsWhenTold,
) -> None:
    iopub.add(2 * WAITING_BYTES)
    threading.Timer(SHORT_S, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        iopub.backlog.wait_for_room()
    iopub.backlog.wait_until_sent()
    iopub.send()
    iopub.add(1)
    assert Writer(iopub.backlog.wait_until_sent).waits()


def test_the_end_of_the_kernel_ends_those_who_wait(iopub: ThreadThatSendsWhenTold) -> None:
    iopub.add(2 * WAITING_BYTES)
    writer = Writer(iopub.backlog.wait_for_room)
    flusher = Writer(iopub.backlog.wait_until_sent)
    assert writer.waits()
    iopub.backlog.end()
    assert writer.goes_on()
    assert flusher.goes_on()
    assert isinstance(writer.raised, SystemExit)
    assert flusher.raised is None
