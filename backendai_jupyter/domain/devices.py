"""Accelerators of a node: what one is, and which slot counts it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from backendai_jupyter.domain.resources import QUANTUM, SLOT_UNITS, Unit, unit_of

DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WHOLE = frozenset({Unit.COUNT, Unit.UNIQUE})


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
    profile: str = ""  # of a part that a device was cut into, e.g. ``mig-1g.5gb``
    by_toolkit: bool = False  # containers are given it by NVIDIA's toolkit, not by its files

    def slot(self, *, divided: bool) -> str:
        """Return the slot that counts this device; some kinds are never divided."""
        if self.profile:
            return f"{self.kind}.{self.profile}"
        shares = f"{self.kind}.shares"
        return shares if divided and shares in SLOT_UNITS else f"{self.kind}.device"

    def amount(self, slot: str) -> Decimal:
        """Return how much of ``slot`` the whole device is."""
        whole = Decimal(1) if is_whole(slot) else self.shares
        return whole.quantize(QUANTUM)


def is_whole(slot: str) -> bool:
    """Whether a slot counts devices that are never divided."""
    return unit_of(slot) in _WHOLE


def is_accelerator(slot: str) -> bool:
    return "." in slot
