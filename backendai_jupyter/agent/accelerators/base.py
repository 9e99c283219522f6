"""What the agent needs to know of a node's accelerators, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from backendai_jupyter.domain.devices import Device


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices that can be given away now, and in words why others cannot."""

    devices: tuple[Device, ...] = ()
    notes: tuple[str, ...] = ()


class AcceleratorPlugin(Protocol):
    """Says which accelerators a node has.  Both methods block, and one may hang with a driver."""

    def inventory(self) -> Inventory:
        """Look at the devices; each call looks again, and lists them in the same order.

        Raises ``Unavailable`` with what to do about it where they cannot be looked at.
        """
        ...

    def close(self) -> None:
        """Let go of the driver; succeeds if ``inventory`` was never called, or has failed."""
        ...
