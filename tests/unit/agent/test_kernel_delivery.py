"""What a kernel keeps of its output, and what it sends again when a relay asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backendai_jupyter.agent.kernel_delivery import (
    DELIMITER,
    KEPT_BYTES,
    KEPT_MESSAGES,
    MARK,
    RECEIPT,
    RESUME,
    WORD,
    Outbox,
)

NOBODY = bytes(8)


def add(outbox: Outbox, *texts: bytes) -> None:
    for text in texts:
        outbox.add([b"topic", DELIMITER, text], copy=True)


def sent(outbox: Outbox) -> list[bytes]:
    """Return what is to be sent now."""
    return [frames[-1] for frames, _ in taken(outbox)]


def numbers(outbox: Outbox) -> list[int]:
    return [MARK.unpack(frames[1])[2] for frames, _ in taken(outbox)]


def taken(outbox: Outbox) -> Iterator[tuple[list[bytes], dict[str, object]]]:
    while (message := outbox.take()) is not None:
        yield message


def says(outbox: Outbox, what: bytes, number: int, program: bytes = b"") -> None:
    outbox.hear(WORD.pack(what, program or outbox.program, number))


@pytest.fixture
def outbox() -> Outbox:
    """One to which a relay has spoken."""
    outbox = Outbox()
    says(outbox, RECEIPT, 0)
    return outbox


def test_each_message_is_sent_once_with_its_number_in_front_of_the_delimiter(
    outbox: Outbox,
) -> None:
    add(outbox, b"a", b"b")
    (first, options), (second, _) = taken(outbox)
    assert (first[0], *first[2:]) == (b"topic", DELIMITER, b"a")
    assert [MARK.unpack(frames[1])[1:] for frames in (first, second)] == [
        (outbox.program, 1, 1),
        (outbox.program, 2, 1),
    ]
    assert options == {"copy": True}
    assert sent(outbox) == []


def test_what_no_receipt_covers_is_sent_again_in_order(outbox: Outbox) -> None:
    add(outbox, b"a", b"b", b"c")
    assert sent(outbox) == [b"a", b"b", b"c"]
    says(outbox, RECEIPT, 1)
    assert sent(outbox) == []
    says(outbox, RESUME, 2)
    add(outbox, b"d")
    assert numbers(outbox) == [3, 4]


def test_a_relay_that_was_never_told_of_the_program_gets_all_that_is_kept(outbox: Outbox) -> None:
    add(outbox, b"a", b"b", b"c")
    says(outbox, RECEIPT, 1)
    says(outbox, RESUME, 700, program=NOBODY)
    frames, _ = next(taken(outbox))
    assert MARK.unpack(frames[1])[2:] == (2, 2)
    assert numbers(outbox) == [3]


def test_a_relay_that_asks_while_something_is_sent_again_gets_it_from_the_beginning(
    outbox: Outbox,
) -> None:
    add(outbox, b"a", b"b", b"c")
    outbox.take()
    says(outbox, RESUME, 0)
    assert sent(outbox) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("size", "count"), [(KEPT_BYTES // 4, 4), (1, KEPT_MESSAGES)], ids=["bytes", "messages"]
)
def test_it_is_full_at_the_bound_until_a_receipt_comes(
    outbox: Outbox, size: int, count: int
) -> None:
    add(outbox, *[b"x" * size] * (count - 1))
    assert not outbox.is_full
    add(outbox, b"x" * size)
    assert outbox.is_full
    sent(outbox)
    says(outbox, RECEIPT, 1)
    assert not outbox.is_full


def test_a_relay_that_gives_no_receipts_makes_nobody_wait_and_costs_no_memory() -> None:
    outbox = Outbox()
    for number in range(2 * KEPT_MESSAGES):
        add(outbox, b"x")
        assert numbers(outbox) == [number + 1]
        assert not outbox.is_full
    says(outbox, RESUME, 0, program=NOBODY)
    assert len(sent(outbox)) < KEPT_MESSAGES


def test_a_buffer_that_is_changed_later_is_sent_again_as_it_was(outbox: Outbox) -> None:
    buffer = bytearray(b"then")
    outbox.add([DELIMITER, memoryview(buffer)])
    buffer[:] = b"now!"
    assert sent(outbox) == [b"then"]


@pytest.mark.parametrize("word", [b"\x02", b"\x02" * 40])
def test_what_is_no_word_of_the_relay_is_passed_over(word: bytes) -> None:
    outbox = Outbox()
    add(outbox, *[b"x"] * KEPT_MESSAGES)
    outbox.hear(word)
    assert not outbox.is_full
