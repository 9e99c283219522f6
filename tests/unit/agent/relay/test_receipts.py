"""Which messages of a kernel a relay takes, and what it says to the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from backendai_jupyter.agent.kernel_delivery import DELIMITER, RECEIPT, RESUME, WORD, Outbox
from backendai_jupyter.agent.relay.chronicle import Chronicle
from backendai_jupyter.agent.relay.messages import Signer
from backendai_jupyter.agent.relay.receipts import Mark, Receipts, read_mark
from backendai_jupyter.agent.relay.records import Kind, decode, encode

ONE, OTHER = b"program1", b"program2"
NOBODY = bytes(8)
SIGNER = Signer("key")


def taken(receipts: Receipts, *marks: Mark, size_bytes: int = 1) -> list[int]:
    """Return the numbers of those that are taken."""
    return [mark.number for mark in marks if receipts.takes(mark, size_bytes)]


def marks(*numbers: int, program: bytes = ONE, first: int = 1) -> list[Mark]:
    return [Mark(program, number, first) for number in numbers]


def said(receipts: Receipts) -> tuple[bytes, bytes, int] | None:
    word = receipts.word()
    return WORD.unpack(word) if word else None


@pytest.fixture
def receipts() -> Receipts:
    """Of a relay that has three messages of a program and has said so."""
    receipts = Receipts()
    taken(receipts, *marks(1, 2, 3))
    assert said(receipts) == (RECEIPT, ONE, 3)
    return receipts


def test_what_comes_twice_is_taken_once(receipts: Receipts) -> None:
    assert taken(receipts, *marks(2, 3, 4, 4, 5, 1)) == [4, 5]


def test_what_comes_too_early_is_asked_for_once(receipts: Receipts) -> None:
    assert taken(receipts, *marks(6, 7)) == []
    assert said(receipts) == (RESUME, ONE, 3)
    assert taken(receipts, *marks(8)) == []
    assert said(receipts) is None
    assert taken(receipts, *marks(4, 5, 6)) == [4, 5, 6]


def test_what_the_kernel_no_longer_has_is_not_waited_for(receipts: Receipts) -> None:
    assert taken(receipts, *marks(9, 10, first=9)) == [9, 10]


def test_the_numbers_of_another_program_begin_anew(receipts: Receipts) -> None:
    receipts.kernel_gone()
    receipts.kernel_came()
    assert said(receipts) == (RESUME, ONE, 3)
    assert taken(receipts, *marks(1, 2, program=OTHER)) == [1, 2]
    assert said(receipts) == (RECEIPT, OTHER, 2)


def test_a_relay_that_comes_later_asks_for_what_the_journal_lacks(receipts: Receipts) -> None:
    stamp = receipts.takes(Mark(ONE, 4, 1), 1)
    next_one = Receipts(stamp)
    assert next_one.numbered
    assert said(next_one) is None
    next_one.kernel_came()
    assert said(next_one) == (RESUME, ONE, 4)
    assert taken(next_one, *marks(3, 4, 5)) == [5]


def test_receipts_are_few(receipts: Receipts) -> None:
    said_of = [n for n in range(4, 1004) if taken(receipts, *marks(n)) and said(receipts)]
    assert len(said_of) == 7
    taken(receipts, *marks(1004), size_bytes=1 << 20)
    assert said(receipts) == (RECEIPT, ONE, 1004)


def test_a_kernel_that_numbers_nothing_is_only_asked_when_it_comes() -> None:
    receipts = Receipts()
    receipts.kernel_came()
    assert said(receipts) == (RESUME, NOBODY, 0)
    assert not receipts.numbered
    assert said(receipts) is None


def test_a_kernels_mark_is_read() -> None:
    outbox = Outbox()
    outbox.add([b"topic", DELIMITER, b"signature"])
    message = outbox.take()
    assert message is not None
    frames, _ = message
    assert read_mark(frames, frames.index(DELIMITER)) == Mark(outbox.program, 1, 1)
    assert read_mark([b"topic", DELIMITER], 1) is None
    assert read_mark([DELIMITER], 0) is None


def test_a_stamp_is_part_of_the_record_and_of_no_message() -> None:
    data = b"".join(encode(7, Kind.IOPUB, [b"signature", b"header"], b"stamp"))
    [record] = decode(memoryview(data), check=True)
    assert (record.seq, record.kind, record.stamp) == (7, Kind.IOPUB, b"stamp")
    assert [bytes(frame) for frame in record.frames] == [b"signature", b"header"]
    assert record.size_bytes == len(data)


def test_a_chronicle_knows_the_last_stamp_again(tmp_path: Path) -> None:
    def opened() -> Chronicle:
        return Chronicle(tmp_path / "journal", 1 << 20, SIGNER, keep_from=lambda: None)

    def line() -> list[bytes]:
        return SIGNER.build("stream", {"name": "stdout", "text": "x"}, session="kernel")[1:]

    chronicle = opened()
    for stamp in (b"first", b"second", b""):
        chronicle.take(Kind.IOPUB, line(), stamp)
    chronicle.commit()
    chronicle.take(Kind.IOPUB, line(), b"never written")
    assert opened().stamp == b"second"
