"""Measure the node as a whole, whoever uses it."""

from __future__ import annotations

import os
from pathlib import Path

from backendai_jupyter.agent.statistics.disk import Space
from backendai_jupyter.agent.statistics.proc_files import PROC, busy_s_of, field, read_or_none
from backendai_jupyter.agent.statistics.rate import Moment, Rate
from backendai_jupyter.domain.statistics import NodeStatistics


class NodeMeter:
    """Reads what Linux counts for the machine; blocks for a moment."""

    def __init__(self, *, proc: Path = PROC) -> None:
        self._proc = proc
        self._cpu = Rate()

    def measure(
        self, moment: Moment, *, kernels_running: int, scratch: Space | None
    ) -> NodeStatistics:
        busy_s = busy_s_of(read_or_none(self._proc / "stat") or "")
        memory = read_or_none(self._proc / "meminfo")
        loads = self._loads()
        return NodeStatistics(
            at=moment.time_s,
            cpus=os.cpu_count(),
            cpu_cores=None if busy_s is None else self._cpu.at(busy_s, moment),
            load_1m=loads[0],
            load_5m=loads[1],
            load_15m=loads[2],
            memory_total_bytes=_kib(field(memory, "MemTotal:")),
            memory_available_bytes=_kib(field(memory, "MemAvailable:")),
            scratch_total_bytes=scratch.total_bytes if scratch else None,
            scratch_free_bytes=scratch.free_bytes if scratch else None,
            kernels_running=kernels_running,
        )

    def _loads(self) -> tuple[float | None, float | None, float | None]:
        words = (read_or_none(self._proc / "loadavg") or "").split()
        try:
            return float(words[0]), float(words[1]), float(words[2])
        except (IndexError, ValueError):
            return None, None, None


def _kib(amount: int | None) -> int | None:
    return None if amount is None else amount * 1024
