"""Measure one program of a kernel, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backendai_jupyter.agent.runtime.base import Origin
from backendai_jupyter.agent.statistics.cgroup_files import Group
from backendai_jupyter.agent.statistics.proc_files import (
    PROC,
    Memory,
    Processes,
    Transfers,
    read_or_none,
)
from backendai_jupyter.agent.statistics.rate import Moment, Rate
from backendai_jupyter.domain.statistics import KernelStatistics


class KernelMeter:
    """Reads the control group of one container, and the processes in it; blocks.

    Where Linux does not count for the kernel as a whole, its processes are added up.  What
    was counted for a process nobody waited for is lost with it, so no sum falls below what
    it was before.
    """

    def __init__(
        self, container_id: str, generation: int, origin: Origin, *, proc: Path = PROC
    ) -> None:
        self._generation = generation
        self._origin = origin
        self._group = Group.of(
            read_or_none(proc / str(origin.first) / "cgroup") or "",
            read_or_none(proc / "self/mountinfo") or "",
            container_id,
        )
        self._cpu = Rate()
        self._cpu_used_s = 0.0
        self._peak_bytes = 0
        self._transfers = Transfers(0, 0)

    def measure(
        self, processes: Processes, moment: Moment, *, home_bytes: int | None = None
    ) -> KernelStatistics | None:
        """Return what the program uses; None where its processes are not to be found."""
        pids = self._pids(processes)
        if not pids:
            return None
        cpu_used_s = self._cpu_of(pids, processes)
        memory = self._memory_of(pids, processes)
        transfers = self._transfers_of(pids, processes)
        network = processes.network(self._origin.first) if self._origin.first in pids else None
        return KernelStatistics(
            generation=self._generation,
            at=moment.time_s,
            cpu_used_s=round(cpu_used_s, 3),
            cpu_cores=self._cpu.at(cpu_used_s, moment),
            memory_used_bytes=memory.used_bytes,
            memory_peak_bytes=memory.peak_bytes,
            memory_limit_bytes=memory.limit_bytes,
            io_read_bytes=transfers.in_bytes if transfers else None,
            io_write_bytes=transfers.out_bytes if transfers else None,
            network_received_bytes=network.in_bytes if network else None,
            network_sent_bytes=network.out_bytes if network else None,
            processes=len(pids),
            home_bytes=home_bytes,
        )

    def _pids(self, processes: Processes) -> Sequence[int]:
        """Return its processes; those of another machine's engine have numbers of their own."""
        pids = self._group.pids()
        if pids is not None or self._origin.reaper is None:
            return pids or ()
        return processes.below(self._origin.reaper)

    def _cpu_of(self, pids: Sequence[int], processes: Processes) -> float:
        used_s = self._group.cpu_used_s()
        if used_s is None:
            used_s = processes.cpu_used_s(pids, self._origin.reaper)
        self._cpu_used_s = max(self._cpu_used_s, used_s)
        return self._cpu_used_s

    def _memory_of(self, pids: Sequence[int], processes: Processes) -> Memory:
        memory = self._group.memory() or processes.memory(pids)
        self._peak_bytes = max(self._peak_bytes, memory.peak_bytes)
        return Memory(memory.used_bytes, self._peak_bytes, memory.limit_bytes)

    def _transfers_of(self, pids: Sequence[int], processes: Processes) -> Transfers | None:
        found = processes.transfers(pids)
        if found is not None:
            before = self._transfers
            self._transfers = Transfers(
                max(before.in_bytes, found.in_bytes), max(before.out_bytes, found.out_bytes)
            )
        return None if found is None else self._transfers
