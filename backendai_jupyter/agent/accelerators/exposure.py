"""What a kernel sees of the node's accelerators: its own devices, and none else.

====================================  =======================================================
``BACKENDAI_DEVICES``                 ids of its devices, joined by commas
``BACKENDAI_DEVICE_SHARES``           ``ID:AMOUNT`` of each device that it has a share of
``BACKENDAI_DEVICE_MEMORY``           ``ID:BYTES``: its part of each device's memory
``CUDA_VISIBLE_DEVICES``              CUDA's own, always set: empty if it has none
``NVIDIA_VISIBLE_DEVICES``            of NVIDIA's container toolkit: ``void`` if it has none
====================================  =======================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from backendai_jupyter.agent.accelerators.book import Allotment, Piece
from backendai_jupyter.domain.devices import Device, DeviceFile, is_whole

DEVICES = "BACKENDAI_DEVICES"
SHARES = "BACKENDAI_DEVICE_SHARES"
MEMORY = "BACKENDAI_DEVICE_MEMORY"
VARIABLES = (DEVICES, SHARES, MEMORY)
_NO_CUDA = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


@dataclass(frozen=True, slots=True)
class Exposure:
    """A kernel's devices, as its runtime needs them.

    ``record`` is what was allotted, for the runtime to keep with the container.
    """

    devices: tuple[Device, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: dict(_NO_CUDA))
    record: str = ""

    @property
    def files(self) -> tuple[DeviceFile, ...]:
        """Return the files of all of them, one that several have only once."""
        return _once(file for device in self.devices for file in device.files)

    @property
    def files_of_containers(self) -> tuple[DeviceFile, ...]:
        """Return those that NVIDIA's toolkit does not bring."""
        return _once(f for device in self.devices if not device.by_toolkit for f in device.files)

    @property
    def toolkit_ids(self) -> tuple[str, ...]:
        return tuple(device.id for device in self.devices if device.by_toolkit)


def expose(allotment: Allotment, known: Mapping[str, Device]) -> Exposure:
    """Return what a kernel with these devices, all of which are ``known``, sees."""
    if not allotment.pieces:
        return Exposure()
    devices = tuple(known[piece.device_id] for piece in allotment.pieces)
    return Exposure(devices, dict(_env(allotment.pieces, known)), allotment.model_dump_json())


def _env(pieces: tuple[Piece, ...], known: Mapping[str, Device]) -> Iterable[tuple[str, str]]:
    yield from _NO_CUDA.items()
    yield DEVICES, ",".join(piece.device_id for piece in pieces)
    cuda = ",".join(p.device_id for p in pieces if known[p.device_id].kind == "cuda")
    if cuda:
        yield from (("CUDA_VISIBLE_DEVICES", cuda), ("NVIDIA_VISIBLE_DEVICES", cuda))
    shares = [f"{p.device_id}:{p.amount.normalize():f}" for p in pieces if not is_whole(p.slot)]
    if shares:
        yield SHARES, ",".join(shares)
    memory = [
        f"{piece.device_id}:{_memory(known[piece.device_id], piece)}"
        for piece in pieces
        if known[piece.device_id].memory_bytes
    ]
    if memory:
        yield MEMORY, ",".join(memory)


def _memory(device: Device, piece: Piece) -> int:
    return int(Decimal(device.memory_bytes) * piece.amount / device.amount(piece.slot))


def _once(files: Iterable[DeviceFile]) -> tuple[DeviceFile, ...]:
    return tuple(dict.fromkeys(files))
