"""How much a websocket client may have been sent without having confirmed it."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.web.window import Window

MB = 1_000_000


def test_a_pong_confirms_what_was_written_before_its_ping() -> None:
    window = Window()
    window.wrote(10)
    window.dealt_with(1)
    ping = window.ping(1.0)
    assert ping is not None
    window.wrote(20)
    window.dealt_with(2)
    assert window.pong(ping)
    assert (window.unconfirmed_bytes, window.confirmed_seq) == (20, 1)


def test_a_client_may_answer_the_last_of_several_pings_only() -> None:
    window = Window()
    pings = []
    for seq in (1, 2, 3):
        window.wrote(10)
        window.dealt_with(seq)
        pings.append(window.ping(float(seq)))
    assert pings[1] is not None
    assert window.pong(pings[1])
    assert (window.unconfirmed_bytes, window.confirmed_seq) == (10, 2)
    assert pings[0] is not None
    assert not window.pong(pings[0])


@pytest.mark.parametrize("payload", [b"", b"hello", b"baj1\0\0\0\0\0\0\0\x07"])
def test_a_pong_that_answers_no_ping_of_ours_confirms_nothing(payload: bytes) -> None:
    window = Window()
    window.wrote(10)
    window.ping(1.0)
    assert not window.pong(payload)
    assert window.unconfirmed_bytes == 10


def test_records_for_others_count_as_confirmed_with_what_came_before_them() -> None:
    window = Window()
    window.wrote(10)
    window.dealt_with(1)
    ping = window.ping(1.0)
    window.dealt_with(2)
    assert ping is not None
    window.pong(ping)
    assert window.confirmed_seq == 2


def test_one_ping_is_under_way_and_more_only_after_a_while_or_for_what_is_urgent() -> None:
    window = Window()
    assert window.ping(1.0) is None  # nothing was written
    window.wrote(1)
    assert window.ping(1.0) is not None
    assert window.ping(2.0) is None  # nothing since
    window.wrote(1)
    assert window.ping(1.001) is None
    assert window.ping(1.001, urgent=True) is not None
    window.wrote(1)
    assert window.ping(1.01) is not None


def test_a_message_larger_than_the_window_may_go_alone() -> None:
    window = Window(8 * MB)
    assert window.has_room(100 * MB)
    window.wrote(1)
    assert not window.has_room(100 * MB)
    assert window.has_room(8 * MB - 1)
    assert not window.has_room(8 * MB)


async def test_writing_goes_on_when_half_of_the_window_is_confirmed() -> None:
    window = Window(8 * MB)
    pings = []
    for now in range(1, 8):
        window.wrote(MB)
        pings.append(window.ping(float(now)))
    waiting = asyncio.ensure_future(window.room(2 * MB))
    for number, payload in enumerate(pings):
        assert not waiting.done(), number
        assert payload is not None
        window.pong(payload)
        await asyncio.wait({waiting}, timeout=0)
        if window.unconfirmed_bytes <= 4 * MB:
            break
    async with asyncio.timeout(5):
        await waiting
    assert window.unconfirmed_bytes == 4 * MB
