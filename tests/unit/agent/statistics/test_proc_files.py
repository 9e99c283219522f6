"""What is understood of the files in /proc, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.agent.statistics.proc_files import (
    Processes,
    Transfers,
    busy_s_of,
    field,
    network_of,
    number,
    process_of,
    transfers_of,
)
from tests.unit.agent.statistics.machine import Machine

NET = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     999       9    0    0    0     0          0         0      999       9    0    0    0
  eth0:     100       1    0    0    0     0          0         0      200       2    0    0    0
br-1:5:      10       1    0    0    0     0          0         0       20       2    0    0    0
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@given(st.text(st.characters(exclude_characters="\0")), st.integers(0, 1 << 31))
def test_a_program_may_have_any_name(name: str, parent: int) -> None:
    text = f"7 ({name}) S {parent} 7 7 0 -1 4194560 1 0 0 0 100 50 25 25 20 0 1 0 1000 1 3 0"
    found = process_of(text)
    assert found is not None
    assert (found.parent, found.own_s, found.reaped_s) == (parent, 1.5, 0.5)


@given(st.text())
def test_no_text_breaks_a_reader(text: str) -> None:
    for read in (process_of, transfers_of, network_of, busy_s_of, number):
        read(text)
    field(text, "x")


@pytest.mark.parametrize("text", ["", "7 (x) S 1", "7 (x) S one 7 7 0 -1 4 1 0 0 0 1 1 1 1"])
def test_half_a_line_is_no_process(text: str) -> None:
    assert process_of(text) is None


def test_the_loopback_does_not_count_as_network() -> None:
    assert network_of(NET) == Transfers(110, 220)
    assert network_of("a\nb\neth0: many 1\n") is None


def test_half_of_what_a_process_has_transferred_is_not_told() -> None:
    assert transfers_of("read_bytes: 4\n") is None
    assert transfers_of("read_bytes: 4\nwrite_bytes: 5\n") == Transfers(4, 5)


def test_a_node_that_waits_is_not_busy() -> None:
    assert busy_s_of("cpu  100 100 100 9000 5000 100 100 7000 0 0\ncpu0 1\n") == 5.0
    assert busy_s_of("intr 5\n") is None
    assert busy_s_of("cpu  1 2 3 4\n") is None


def test_a_tree_has_all_that_descends_from_its_root(machine: Machine) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 10), (14, 1)):
        machine.process(pid, parent=parent)
    processes = Processes(machine.proc)
    assert sorted(processes.below(10)) == [11, 12, 13]
    assert processes.below(99) == []


def test_processor_time_of_the_dead_is_that_of_whoever_waited_for_them(machine: Machine) -> None:
    machine.process(10, cpu_s=100, reaped_s=7)
    machine.process(11, parent=10, cpu_s=1, reaped_s=2)
    machine.process(12, parent=11, cpu_s=4)
    processes = Processes(machine.proc)
    assert processes.cpu_used_s([11, 12, 99], 10) == 14
    assert processes.cpu_used_s([11, 12, 99], None) == 7


def test_what_one_process_transferred_unseen_makes_the_sum_unknown(
    machine: Machine,
) -> None:
    machine.process(11, io=(10, 20))
    machine.process(12, io=(1, 2))
    assert Processes(machine.proc).transfers([11, 12, 99]) == Transfers(11, 22)
    (machine.proc / "12/io").unlink()
    assert Processes(machine.proc).transfers([11, 12]) is None


def test_a_peak_is_that_of_all_or_of_the_one_that_was_largest(machine: Machine) -> None:
    machine.process(11, pages=10, peak_kib=4000)
    machine.process(12, pages=20, peak_kib=100)
    memory = Processes(machine.proc).memory([11, 12, 99])
    page = memory.used_bytes // 30
    assert (memory.used_bytes, memory.peak_bytes) == (30 * page, 4000 * 1024)


def test_only_a_network_of_its_own_is_a_kernels(machine: Machine) -> None:
    machine.process(11, net=NET)
    machine.process(12, net=NET)
    (machine.proc / "12/ns/net").unlink()
    (machine.proc / "12/ns/net").hardlink_to(machine.proc / "self/ns/net")
    processes = Processes(machine.proc)
    assert processes.network(11) == Transfers(110, 220)
    assert processes.network(12) is None
    assert processes.network(99) is None
