"""Accelerators of a node: what one is, and which slot counts it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from backendai_jupyter.domain.resources import QUANTUM, SLOT_UNITS, Unit

DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The parts of slots' names before the dot, e.g. ``cuda`` of ``cuda.device``.
KINDS = tuple(dict.fromkeys(slot.partition(".")[0] for slot in SLOT_UNITS if "." in slot))


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A device file of the node, and where a kernel that has the device sees it."""

    host: str
    inside: str


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.  ``shares`` says what it counts where devices are divided."""

    id: str
    kind: str = "cuda"
    name: str = ""
    memory_bytes: int = 0  # 0: unknown
    shares: Decimal = Decimal(1)
    files: tuple[DeviceFile, ...] = ()
    by_toolkit: bool = False  # containers are given it by NVIDIA's toolkit, not by its files

    def slot(self, *, divided: bool) -> str:
        """Return the slot that counts this device; some kinds are never divided."""
        shares = f"{self.kind}.shares"
        return shares if divided and shares in SLOT_UNITS else f"{self.kind}.device"

    def amount(self, slot: str) -> Decimal:
        """Return how much of ``slot`` the whole device is."""
        whole = Decimal(1) if is_whole(slot) else self.shares
        return whole.quantize(QUANTUM)


def is_whole(slot: str) -> bool:
    """Whether a slot counts devices that are never divided."""
    return SLOT_UNITS.get(slot) is Unit.COUNT


def is_accelerator(slot: str) -> bool:
    return slot.partition(".")[0] in KINDS
