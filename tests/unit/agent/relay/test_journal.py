"""What a journal keeps, what it drops, and what it can read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.relay import segments
from backendai_jupyter.agent.relay.journal import Gap, Journal, Why
from backendai_jupyter.agent.relay.records import HEADER, Kind, Record, decode

SMALL = 1 << 20  # a bound with segments of 64 KiB
PART_BYTES = 10_000


class Rig:
    """A journal with the two that it asks: who reads, and what goes on."""

    def __init__(self, path: Path, max_bytes: int = SMALL, gaps: tuple[Gap, ...] = ()) -> None:
        self.path = path
        self.unfinished: set[str] = set()
        self.slowest: int | None = None
        self.read_back: list[Record] = []
        self.journal = Journal(
            path,
            max_bytes,
            observe=self._observe,
            unfinished=self.unfinished,
            keep_from=lambda: self.slowest,
            gaps=gaps,
        )

    def write(self, text: str, cell: str | None = None) -> int:
        seq = self.journal.add(Kind.IOPUB, [text.encode()], cell)
        assert self.journal.flush() == b""
        return seq

    def write_parts(self, count: int, cell: str | None = None) -> None:
        for _ in range(count):
            self.write("x" * PART_BYTES, cell)

    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.seg"))

    def _observe(self, record: Record) -> str | None:
        self.read_back.append(record)
        return None


def texts(records: list[Record]) -> list[str]:
    return [bytes(record.frames[0]).decode() for record in records]


def all_after(journal: Journal, seq: int) -> Iterator[int]:
    """Yield the numbers of all records that are kept and later than ``seq``."""
    while (segment := journal.segment_after(seq)) is not None:
        data = memoryview(segment.path.read_bytes())[segment.offset_after(seq) :]
        for record in decode(data, check=True):
            yield record.seq
        seq = segment.last_seq


def test_records_are_numbered_from_one_without_gaps(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert [rig.write(text) for text in "abc"] == [1, 2, 3]
    assert list(all_after(rig.journal, 0)) == [1, 2, 3]


def test_many_records_are_one_write_and_readable_each(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for i in range(1000):
        rig.journal.add(Kind.IOPUB, [str(i).encode(), b"y" * 50_000 * (i == 500)])
    assert rig.journal.flush() == b""
    assert list(all_after(rig.journal, 499)) == list(range(500, 1001))


@pytest.mark.parametrize("seq", [0, 1, 6, 7, 8, 150, 299, 300, 400])
def test_the_first_record_after_a_number_is_found(tmp_path: Path, seq: int) -> None:
    rig = Rig(tmp_path)
    rig.write_parts(100)
    for _ in range(200):
        rig.write("small")
    assert list(all_after(rig.journal, seq)) == list(range(seq + 1, 301))


def test_what_exceeds_the_bound_goes_from_the_oldest_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write_parts(300)
    kept = list(all_after(rig.journal, 0))
    assert kept == list(range(kept[0], 301))
    assert 0.8 * SMALL < sum(path.stat().st_size for path in rig.files()) <= SMALL
    gap = rig.journal.gap_between(0, kept[0])
    assert (gap.first_seq, gap.last_seq, gap.why) == (1, kept[0] - 1, Why.BOUND)
    assert gap.size_bytes == pytest.approx((kept[0] - 1) * PART_BYTES, rel=0.01)


def test_finished_executions_go_before_one_that_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.unfinished.add("long")
    rig.write_parts(5, "long")
    rig.write_parts(300, "done")
    kept = list(all_after(rig.journal, 0))
    assert kept[:5] == [1, 2, 3, 4, 5]
    assert kept[-1] == 305
    assert len(kept) < 305


def test_what_a_reader_has_yet_to_read_goes_last(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write_parts(50)
    rig.unfinished.add("long")
    rig.write_parts(45, "long")
    rig.slowest = rig.journal.end // 2
    rig.write_parts(20, "done")
    kept = list(all_after(rig.journal, 0))
    assert set(range(60, 116)) <= set(kept)
    assert 1 not in kept


def test_a_message_larger_than_the_bound_is_kept_until_the_next(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("first")
    rig.write("x" * 2 * SMALL)
    assert 2 in list(all_after(rig.journal, 0))
    rig.write("last")
    assert list(all_after(rig.journal, 0))[-1] == 3


def test_a_journal_is_read_back_and_goes_on(tmp_path: Path) -> None:
    former = Rig(tmp_path)
    for text in "abc":
        former.write(text)
    rig = Rig(tmp_path)
    assert texts(rig.read_back) == ["a", "b", "c"]
    assert rig.write("d") == 4
    assert list(all_after(rig.journal, 0)) == [1, 2, 3, 4]
    assert list(all_after(rig.journal, 2)) == [3, 4]


def test_numbers_that_somebody_has_are_not_given_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("a")
    rig.journal.skip_to(7)
    assert rig.write("b") == 8
    assert list(all_after(rig.journal, 1)) == [8]
    assert Rig(tmp_path).journal.head == 8


@pytest.mark.parametrize("cut", [1, 5, HEADER.size, HEADER.size + 4])
def test_half_a_record_at_the_end_is_cut_off(tmp_path: Path, cut: int) -> None:
    former = Rig(tmp_path)
    former.write("whole")
    [path] = former.files()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    rig = Rig(tmp_path)
    assert texts(rig.read_back) == ["whole"]
    assert path.read_bytes() == whole
    assert rig.write("next") == 2


@pytest.mark.parametrize("where", range(0, 100, 7))
def test_damage_costs_the_record_it_hit(tmp_path: Path, where: int) -> None:
    former = Rig(tmp_path)
    for i in range(10):
        former.write(f"{i}" * 72)
    [path] = former.files()
    data = bytearray(path.read_bytes())
    data[5 * len(data) // 10 + where] ^= 0xFF
    path.write_bytes(data)
    rig = Rig(tmp_path)
    assert [text[0] for text in texts(rig.read_back)] == list("012346789")
    assert list(all_after(rig.journal, 0)) == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert rig.journal.gap_between(5, 7) == Gap(6, 6, 0, Why.DAMAGE)
    again = Rig(tmp_path)  # the repaired files are sound
    assert texts(again.read_back) == texts(rig.read_back)


def test_a_file_of_which_nothing_can_be_read_is_removed(tmp_path: Path) -> None:
    former = Rig(tmp_path)
    former.write("a")
    segments.path_of(tmp_path, 2).write_bytes(b"\0" * 1000)
    segments.path_of(tmp_path, 3).touch()
    rig = Rig(tmp_path)
    assert list(all_after(rig.journal, 0)) == [1]
    assert len(rig.files()) == 1


def test_what_an_interrupted_repair_has_left_is_not_read_twice(tmp_path: Path) -> None:
    former = Rig(tmp_path)
    for text in "abc":
        former.write(text)
    [path] = former.files()
    data = path.read_bytes()
    segments.path_of(tmp_path, 3).write_bytes(data[2 * len(data) // 3 :])
    rig = Rig(tmp_path)
    assert texts(rig.read_back) == ["a", "b", "c"]
    assert list(all_after(rig.journal, 0)) == [1, 2, 3]


def test_what_an_earlier_relay_dropped_is_still_known(tmp_path: Path) -> None:
    former = Rig(tmp_path)
    former.write_parts(300)
    rig = Rig(tmp_path, gaps=tuple(former.journal.gaps))
    first_kept = next(all_after(rig.journal, 0))
    assert rig.journal.gap_between(0, first_kept) == former.journal.gap_between(0, first_kept)


def test_a_part_of_a_gap_is_counted_as_a_part(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gaps=(Gap(1, 100, 1000, Why.BOUND),))
    assert rig.journal.gap_between(50, 101) == Gap(51, 100, 500, Why.BOUND)


def test_what_cannot_be_written_is_given_back_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("no directory")
    rig = Rig(path)
    rig.journal.add(Kind.IOPUB, [b"a"])
    unwritten = rig.journal.flush()
    [record] = decode(memoryview(unwritten), check=True)
    assert (record.seq, texts([record])) == (1, ["a"])
    assert rig.journal.trouble
    path.unlink()
    assert rig.write("b") == 2
    assert rig.journal.trouble == ""
    assert list(all_after(rig.journal, 0)) == [2]
    assert rig.journal.gap_between(0, 2).why is Why.DISK


def test_a_closed_journal_can_be_opened_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("a")
    rig.journal.close()
    assert texts(Rig(tmp_path).read_back) == ["a"]
