"""The buffer through which a journal is read."""

from __future__ import annotations

import random

import pytest

from backendai_jupyter.agent.relay.records import Damaged, Kind, encode, missing_bytes
from backendai_jupyter.provisioning.journal import Intake


def record(seq: int, size_bytes: int) -> bytes:
    return b"".join(encode(seq, Kind.IOPUB, [b"s", bytes([seq % 256]) * size_bytes]))


def test_records_of_any_size_in_pieces_of_any_size_come_whole_and_in_order() -> None:
    chance = random.Random(4)
    sizes = [chance.choice([0, 10, 900, 5_000, 40_000]) for _ in range(200)]
    stream = memoryview(b"".join(record(seq, size) for seq, size in enumerate(sizes, 1)))
    intake, got = Intake(1_000), []
    while stream or intake.data:
        while records := intake.records():
            got += [(r.seq, bytes(r.frames[1])) for r in records]
        room = intake.room(missing_bytes(intake.data))
        piece = stream[: chance.randint(1, 3_000)][: len(room)]
        room[: len(piece)] = piece
        intake.received(len(piece))
        stream = stream[len(piece) :]
        if not stream:
            got += [(r.seq, bytes(r.frames[1])) for r in intake.records()]
    assert got == [(seq, bytes([seq % 256]) * size) for seq, size in enumerate(sizes, 1)]


def test_a_large_record_is_received_into_one_place_and_then_given_up() -> None:
    large = record(1, 50_000)
    intake = Intake(1_000)
    for start in range(0, len(large), 700):
        piece = large[start : start + 700]
        room = intake.room(missing_bytes(intake.data))
        if start:
            assert len(room) == len(large) - start
        room[: len(piece)] = piece
        intake.received(len(piece))
    assert [r.seq for r in intake.records()] == [1]
    assert len(intake.room(1)) == 1_000


def test_lines_come_before_records() -> None:
    intake = Intake()
    data = b'{"after": 0}\n' + record(1, 5)
    intake.room(len(data))[: len(data)] = data
    intake.received(5)
    assert intake.line() is None
    intake.received(len(data) - 5)
    assert intake.line() == {"after": 0}
    assert [r.seq for r in intake.records()] == [1]


def test_a_line_without_an_end_is_not_waited_for() -> None:
    intake = Intake()
    intake.room(1)
    intake.received(100_000)
    with pytest.raises(Damaged):
        intake.line()
