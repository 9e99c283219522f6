"""How much a websocket client may have been sent without having confirmed it."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.web.window import Fastest, Window

MB = 1_000_000


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(8 * MB, clock)


def write(window: Window, clock: Clock, seq: int, size_bytes: int = 10) -> bytes:
    """Write the message of a record a while later; return the payload of the ping behind it."""
    clock.now_s += 0.006
    window.wrote(size_bytes)
    window.dealt_with(seq)
    ping = window.ping()
    assert ping is not None
    return ping


def test_a_pong_confirms_what_was_written_before_its_ping(window: Window, clock: Clock) -> None:
    ping = write(window, clock, 1)
    window.wrote(20)
    window.dealt_with(2)
    assert window.pong(ping)
    assert (window.unconfirmed_bytes, window.confirmed_seq) == (20, 1)


def test_a_client_may_answer_the_last_of_several_pings_only(window: Window, clock: Clock) -> None:
    pings = [write(window, clock, seq) for seq in (1, 2, 3)]
    assert window.pong(pings[1])
    assert (window.unconfirmed_bytes, window.confirmed_seq) == (10, 2)
    assert not window.pong(pings[0])


@pytest.mark.parametrize("payload", [b"", b"hello", b"baj1\0\0\0\0\0\0\0\x07"])
def test_a_pong_that_answers_no_ping_of_ours_confirms_nothing(
    window: Window, payload: bytes, clock: Clock
) -> None:
    write(window, clock, 1)
    assert not window.pong(payload)
    assert window.unconfirmed_bytes == 10


def test_records_for_others_count_as_confirmed_with_what_came_before_them(
    window: Window, clock: Clock
) -> None:
    ping = write(window, clock, 1)
    window.dealt_with(2)
    window.pong(ping)
    assert window.confirmed_seq == 2


def test_one_ping_is_under_way_and_more_only_after_a_while(window: Window, clock: Clock) -> None:
    assert window.ping() is None  # nothing was written
    window.wrote(1)
    assert window.ping() is not None
    clock.now_s += 1
    assert window.ping() is None  # nothing since
    window.wrote(1)
    assert window.ping() is not None
    window.wrote(1)
    clock.now_s += 0.001
    assert window.ping() is None
    clock.now_s += 0.01
    assert window.ping() is not None


def test_much_should_be_confirmed_soon(window: Window) -> None:
    assert not window.has_much_to_confirm
    for _ in range(15):
        window.wrote(1)
    assert not window.has_much_to_confirm
    window.wrote(1)
    assert window.has_much_to_confirm
    assert window.ping() is not None
    assert not window.has_much_to_confirm
    window.wrote(1 << 16)
    assert window.has_much_to_confirm


def test_a_message_larger_than_the_window_may_go_alone(window: Window) -> None:
    assert window.has_room(100 * MB)
    window.wrote(1)
    assert not window.has_room(100 * MB)
    assert window.has_room(8 * MB - 1)
    assert not window.has_room(8 * MB)


async def test_writing_goes_on_when_half_of_the_window_is_confirmed(
    window: Window, clock: Clock
) -> None:
    pings = [write(window, clock, seq, MB) for seq in range(1, 8)]
    waiting = asyncio.ensure_future(window.room(2 * MB))
    for number, payload in enumerate(pings):
        assert not waiting.done(), number
        window.pong(payload)
        await asyncio.wait({waiting}, timeout=0)
        if window.unconfirmed_bytes <= 4 * MB:
            break
    async with asyncio.timeout(30):
        await waiting
    assert window.unconfirmed_bytes == 4 * MB


async def test_while_a_pong_is_overdue_only_little_is_sent(window: Window, clock: Clock) -> None:
    window.pong(write(window, clock, 1))  # at once
    pings = [write(window, clock, 2), write(window, clock, 3)]
    clock.now_s += 0.03
    for seq in range(4, 34):
        assert window.has_room(10), seq
        pings.append(write(window, clock, seq))
    assert not window.has_room(10)
    waiting = asyncio.ensure_future(window.room(10))
    await asyncio.wait({waiting}, timeout=0)
    assert not waiting.done()
    assert window.pong(pings[0])
    async with asyncio.timeout(30):
        await waiting
    window.pong(pings[-1])
    write(window, clock, 34, MB)
    assert window.has_room(MB)
    clock.now_s += 0.03
    assert not window.has_room(10)


def test_a_slow_link_has_time_for_its_pongs(window: Window, clock: Clock) -> None:
    ping = write(window, clock, 1)
    clock.now_s += 0.2
    window.pong(ping)
    for seq in range(2, 100):
        assert window.has_room(10)
        write(window, clock, seq)
    clock.now_s += 0.2
    assert window.has_room(10)
    clock.now_s += 0.2
    assert not window.has_room(10)


async def test_before_the_end_nothing_is_sent_and_all_is_confirmed(
    window: Window, clock: Clock
) -> None:
    ping = write(window, clock, 1)
    window.hold()
    assert not window.has_room(1)
    settling = asyncio.ensure_future(window.settled())
    await asyncio.wait({settling}, timeout=0)
    assert not settling.done()
    window.pong(ping)
    async with asyncio.timeout(30):
        await settling
    assert not window.has_room(1)


def test_the_fastest_is_forgotten_after_a_while() -> None:
    fastest = Fastest()
    assert fastest.shortest_s == 0
    for now_s, taken_s, shortest_s in [(0, 3, 3), (1, 1, 1), (9, 2, 1), (11, 4, 1), (22, 5, 4)]:
        fastest.took(taken_s, now_s)
        assert fastest.shortest_s == shortest_s, now_s
