"""Meters of kernels and the node, over a machine made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.agent.runtime.base import Origin
from backendai_jupyter.agent.statistics.disk import Space
from backendai_jupyter.agent.statistics.kernel import KernelMeter
from backendai_jupyter.agent.statistics.node import NodeMeter
from backendai_jupyter.agent.statistics.proc_files import Processes
from backendai_jupyter.agent.statistics.rate import Moment, Rate
from backendai_jupyter.domain.statistics import KernelStatistics
from tests.unit.agent.statistics.machine import CONTAINER, Machine

MIB = 1 << 20
KEEPER, FIRST = 10, 11


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def meter_of(machine: Machine, *, reaper: int | None = KEEPER) -> KernelMeter:
    return KernelMeter(CONTAINER, 1, Origin(FIRST, reaper), proc=machine.proc)


def measure(machine: Machine, meter: KernelMeter, at: float) -> KernelStatistics | None:
    return meter.measure(Processes(machine.proc), Moment(1000 + at, at))


def certain(found: KernelStatistics | None) -> KernelStatistics:
    assert found is not None
    return found


def test_a_kernel_without_a_group_is_the_sum_of_its_processes(machine: Machine) -> None:
    machine.process(KEEPER, cpu_s=50)
    machine.process(FIRST, parent=KEEPER, cpu_s=1, pages=100, io=(1, 2))
    machine.process(12, parent=FIRST, cpu_s=2, pages=200, io=(10, 20))
    meter = meter_of(machine)
    first = certain(measure(machine, meter, 0))
    assert (first.generation, first.at) == (1, 1000)
    assert (first.cpu_used_s, first.cpu_cores, first.processes) == (3, None, 2)
    assert (first.io_read_bytes, first.io_write_bytes) == (11, 22)
    assert (first.memory_limit_bytes, first.network_received_bytes) == (None, None)
    machine.process(12, parent=FIRST, cpu_s=10, pages=50, io=(10, 20))
    second = certain(measure(machine, meter, 5))
    assert (second.cpu_used_s, second.cpu_cores) == (11, 1.6)
    assert (second.memory_used_bytes or 0) < (first.memory_used_bytes or 0)
    assert second.memory_peak_bytes == first.memory_peak_bytes == first.memory_used_bytes


def test_a_sum_never_falls_where_nobody_waited_for_the_dead(machine: Machine) -> None:
    machine.process(KEEPER)
    machine.process(FIRST, parent=KEEPER, cpu_s=1, io=(1, 1))
    machine.process(12, parent=FIRST, cpu_s=9, io=(5, 5))
    meter = meter_of(machine)
    before = certain(measure(machine, meter, 0))
    machine.end(12)
    after = certain(measure(machine, meter, 5))
    assert (before.cpu_used_s, after.cpu_used_s, after.cpu_cores) == (10, 10, 0)
    assert (after.io_read_bytes, after.io_write_bytes, after.processes) == (6, 6, 1)


def test_a_group_counts_what_its_processes_cannot(machine: Machine) -> None:
    machine.mount_v2()
    machine.group_v2(
        f"docker/{CONTAINER}",
        {
            "cgroup.procs": FIRST,
            "cpu.stat": "usage_usec 7000000",
            "memory.current": 64 * MIB,
            "memory.stat": "inactive_file 0",
            "memory.peak": 65 * MIB,
            "memory.max": 128 * MIB,
        },
    )
    machine.process(FIRST, cgroup=f"0::/docker/{CONTAINER}", cpu_s=1, pages=3)
    found = certain(measure(machine, meter_of(machine, reaper=None), 0))
    assert (found.cpu_used_s, found.memory_used_bytes, found.processes) == (7, 64 * MIB, 1)
    assert (found.memory_peak_bytes, found.memory_limit_bytes) == (65 * MIB, 128 * MIB)
    assert (found.io_read_bytes, found.io_write_bytes) == (None, None)


def test_a_process_of_that_number_on_another_machine_is_not_measured(machine: Machine) -> None:
    """The engine may run elsewhere, where its process numbers mean other processes."""
    machine.mount_v2()
    machine.group_v2("", {"cgroup.procs": FIRST})
    machine.process(FIRST, cgroup="0::/", cpu_s=1)
    assert measure(machine, meter_of(machine, reaper=None), 0) is None


def test_a_kernel_that_has_gone_is_not_measured_as_nothing(machine: Machine) -> None:
    assert measure(machine, meter_of(machine), 0) is None


def test_the_node_says_what_all_of_it_uses(machine: Machine) -> None:
    machine.write(machine.proc / "meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
    machine.write(machine.proc / "loadavg", "0.25 1.50 3.00 1/200 4711\n")
    machine.write(machine.proc / "stat", "cpu 100 0 100 5000 0 0 0 0\n")
    meter = NodeMeter(proc=machine.proc)
    first = meter.measure(Moment(1000, 0), kernels_running=2, scratch=Space(10, 4))
    assert (first.cpu_cores, first.kernels_running) == (None, 2)
    assert (first.memory_total_bytes, first.memory_available_bytes) == (2 * MIB, MIB)
    assert (first.load_1m, first.load_5m, first.load_15m) == (0.25, 1.5, 3)
    assert (first.scratch_total_bytes, first.scratch_free_bytes) == (10, 4)
    machine.write(machine.proc / "stat", "cpu 200 0 400 9000 0 0 0 0\n")
    second = meter.measure(Moment(1002, 2), kernels_running=2, scratch=None)
    assert (second.cpu_cores, second.scratch_free_bytes) == (2, None)


def test_a_node_that_tells_nothing_is_not_said_to_use_nothing(machine: Machine) -> None:
    found = NodeMeter(proc=machine.proc).measure(Moment(1, 1), kernels_running=0, scratch=None)
    told = found.model_dump(exclude_none=True)
    assert set(told) == {"at", "cpus", "kernels_running"}


def test_readings_at_the_same_moment_say_what_was_said_before() -> None:
    rate = Rate()
    said = [rate.at(value, Moment(0, at)) for value, at in ((0, 0), (5, 5), (9, 5.01), (10, 10))]
    assert said == [None, 1, 1, 1]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.06, 1e4)), min_size=1))
def test_no_rate_is_negative(readings: list[tuple[float, float]]) -> None:
    rate, at, before = Rate(), 0.0, None
    for value, pause_s in readings:
        at += pause_s
        found = rate.at(value, Moment(0, at))
        assert (found is None) == (before is None or value < before)
        assert found is None or found >= 0
        before = value
