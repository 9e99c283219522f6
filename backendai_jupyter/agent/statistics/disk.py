"""What kernels' files occupy: slow to find out, on a network file system perhaps never.

So it is measured beside everything else, one home directory at a time, and the last number
counts until it is too old.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from backendai_jupyter.agent.node import Node
from backendai_jupyter.storage.trees import disk_bytes
from backendai_jupyter.supervisor import Loop

ROUND_S = 60.0  # in which every home is measured once, where that is possible at all
SHORTEST_PAUSE_S = 1.0
MAX_NAMES = 20_000  # in one home; more would take longer than 100 ms
VALID_S = 3 * ROUND_S


@dataclass(frozen=True, slots=True)
class Space:
    """Of a file system."""

    total_bytes: int
    free_bytes: int  # for whoever is not root


@dataclass(frozen=True, slots=True)
class _Home:
    size_bytes: int | None
    measured_at: float


class Disk:
    """The homes of the kernels that run, and the file system that they are on."""

    def __init__(self, node: Node, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._homes: dict[str, _Home] = {}
        self._kernels: frozenset[str] = frozenset()
        self._scratch: Space | None = None
        self._scratch_at = 0.0
        self.loop = Loop("agent disk", self.step, period_s=self._pause_s, expected=(OSError,))

    def watch(self, kernel_ids: Iterable[str]) -> None:
        """Measure the homes of these kernels and of no others."""
        kernels = frozenset(kernel_ids)
        if kernels != self._kernels:
            self._kernels = kernels
            self._homes = {id: home for id, home in self._homes.items() if id in kernels}
            self.loop.poke()

    def home_bytes(self, kernel_id: str) -> int | None:
        """Return what a home occupies; None if that is unknown, or too much to be counted."""
        home = self._homes.get(kernel_id)
        return home.size_bytes if home is not None and self._is_valid(home.measured_at) else None

    @property
    def scratch(self) -> Space | None:
        return self._scratch if self._is_valid(self._scratch_at) else None

    async def step(self) -> None:
        """Measure the file system, and the home that was measured longest ago."""
        self._scratch = await asyncio.to_thread(_space, self._node.scratch_root)
        self._scratch_at = self._clock()
        kernel_id = min(self._kernels, key=self._measured_at, default=None)
        if kernel_id is not None and self._is_due(kernel_id):
            size_bytes = await asyncio.to_thread(_size, self._node.home_dir(kernel_id))
            if kernel_id in self._kernels:
                self._homes[kernel_id] = _Home(size_bytes, self._clock())

    def _pause_s(self) -> float:
        missing = any(kernel_id not in self._homes for kernel_id in self._kernels)
        each_s = ROUND_S / max(len(self._kernels), 1)
        return SHORTEST_PAUSE_S if missing else max(each_s, SHORTEST_PAUSE_S)

    def _measured_at(self, kernel_id: str) -> float:
        home = self._homes.get(kernel_id)
        return float("-inf") if home is None else home.measured_at

    def _is_due(self, kernel_id: str) -> bool:
        """Whether it is time, also where this is called more often than planned."""
        return self._clock() - self._measured_at(kernel_id) >= ROUND_S / 2

    def _is_valid(self, measured_at: float) -> bool:
        return self._clock() - measured_at < VALID_S


def _space(path: Path) -> Space | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return Space(usage.total, usage.free)


def _size(path: Path) -> int | None:
    try:
        return disk_bytes(str(path), at_most=MAX_NAMES)
    except OSError:
        return None
