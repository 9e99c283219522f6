"""The accelerators of one node, as its agent gives them away and takes them back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.agent.accelerators.allocation import Offer, choose
from backendai_jupyter.agent.accelerators.base import AcceleratorPlugin, Inventory
from backendai_jupyter.agent.accelerators.book import Allotment, DeviceBook, Piece
from backendai_jupyter.agent.accelerators.exposure import Exposure, expose
from backendai_jupyter.agent.accelerators.inquiry import Inquiry
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.devices import Device, is_accelerator
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import DeviceReport
from backendai_jupyter.errors import NoCapacity, Unavailable

log = logging.getLogger(__name__)

Devices = tuple[Device, ...]
Held = Mapping[str, Allotment]  # by kernel id

# Slots that every agent has, and that need no device.
_NO_DEVICES = {"cpu", "mem"}


class DevicePool:
    """Which devices there are, and which kernel has what of them.

    The book is the truth about the second, and is read anew under its lock whenever something
    is given away: nothing is ever counted again from containers.  What ``capacity`` and
    ``report`` say is what was read last.
    """

    def __init__(
        self, plugin: AcceleratorPlugin, scratch_root: Path, settings: BackendAIAgent
    ) -> None:
        self._plugin = plugin
        self._settings = settings
        self._book = DeviceBook(scratch_root)
        self._inquiry = Inquiry(plugin.inventory, what="The driver of this node's accelerators")
        self._inventory = Inventory()
        self._last: Mapping[str, Device] = {}  # by id, those of the last answer
        self._problem = ""
        self._held: Held = {}
        self._turn = asyncio.Lock()  # else what was read before a change might replace it

    async def refresh(self) -> None:
        """Look at devices and book again; what cannot be looked at is not offered."""
        former = self.notes()
        try:
            within_s = self._settings.accelerator_timeout_s
            self._inventory = await self._inquiry.answer(within_s=within_s)
            self._last = {device.id: device for device in self._inventory.devices}
            self._problem = ""
        except Unavailable as error:
            self._inventory, self._problem = Inventory(), f"No accelerators are offered. {error}"
        for note in self.notes():
            if note not in former:
                log.warning("On this node: %s", note)
        async with self._turn:
            self._held = await asyncio.to_thread(self._book.read)

    async def allot(self, kernel_id: str, limits: Slots) -> Exposure:
        """Give a kernel devices, all that ``limits`` say or none, for good until ``release``.

        One that has them already keeps them, unless the driver says that one has gone.  Raises
        ``NoCapacity``.
        """
        wanted = Slots({slot: limits[slot] for slot in limits if slot not in _NO_DEVICES})
        if not wanted:
            return Exposure()
        async with self._turn:
            # What they are now: another answer may come in the meantime.
            devices, last = self._inventory.devices, self._last
            return await asyncio.to_thread(self._allot, kernel_id, wanted, devices, last)

    async def release(self, kernel_id: str) -> None:
        """Take back what a kernel has; its program must be gone.  Succeeds if it has nothing."""
        async with self._turn:
            await asyncio.to_thread(self._book.remove, kernel_id)
            self._held = {known: held for known, held in self._held.items() if known != kernel_id}

    async def adopt(self, records: Mapping[str, str]) -> None:
        """Write into the book what containers say that is missing there, and change nothing else.

        ``records`` are those of ``Exposure``, by kernel id.  Only before the agent begins to work:
        else one of them may speak for a kernel that has given its devices back meanwhile.
        """
        said = {kernel_id: record for kernel_id, record in records.items() if record}
        if said:
            async with self._turn:
                self._held = await asyncio.to_thread(self._adopt, said)

    def capacity(self) -> Slots:
        """Return what all devices offer.

        Nothing of one that was given away under another slot, before the settings were changed.
        What is held of a device that has gone counts until its kernel ends: the manager
        subtracts it.
        """
        capacity = Slots()
        for device in self._inventory.devices:
            if not _held_otherwise(device, slot := self._slot(device), self._held):
                capacity += Slots({slot: device.amount(slot)})
        present = {device.id for device in self._inventory.devices}
        for piece in _pieces(self._held):
            if piece.device_id not in present:
                capacity += Slots({piece.slot: piece.amount})
        return capacity

    def report(self) -> tuple[DeviceReport, ...]:
        return tuple(
            DeviceReport(
                id=device.id,
                kind=device.kind,
                name=device.name,
                memory_bytes=device.memory_bytes,
                slot=(slot := self._slot(device)),
                capacity=device.amount(slot),
                held={
                    kernel_id: piece.amount
                    for kernel_id, allotment in sorted(self._held.items())
                    for piece in allotment.pieces
                    if piece.device_id == device.id
                },
            )
            for device in self._inventory.devices
        )

    def notes(self) -> tuple[str, ...]:
        return (*((self._problem,) if self._problem else ()), *self._inventory.notes)

    async def close(self) -> None:
        """Let go of the driver, unless it hangs."""
        close = Inquiry(self._plugin.close, what="The driver of this node's accelerators")
        try:
            await close.answer(within_s=self._settings.accelerator_timeout_s)
        except Unavailable as error:
            log.warning("%s", error)

    def _allot(
        self, kernel_id: str, wanted: Slots, devices: Devices, known: Mapping[str, Device]
    ) -> Exposure:
        with self._book.locked():
            held = self._book.read()
            allotment = held.get(kernel_id)
            if allotment is None or not _still_holds(allotment, wanted, known):
                others = {one: has for one, has in held.items() if one != kernel_id}
                allotment = Allotment(
                    kernel_id=kernel_id, pieces=tuple(self._choose(wanted, devices, others))
                )
                self._book.write(allotment)
            self._held = {**held, kernel_id: allotment}
        return expose(allotment, known)

    def _choose(self, wanted: Slots, devices: Devices, held: Held) -> Iterator[Piece]:
        for slot, amount in wanted.items():
            counted = [one for one in devices if self._slot(one) == slot]
            if not counted:
                raise NoCapacity(self._why_none(slot, devices))
            offers = [Offer(one.id, _free(one, slot, held)) for one in counted]
            chosen = choose(slot, amount, offers, self._settings.device_strategy)
            for device_id, part in chosen.items():
                yield Piece(device_id=device_id, slot=slot, amount=part)

    def _why_none(self, slot: str, devices: Devices) -> str:
        if self._problem and is_accelerator(slot):
            return self._problem
        offered = ", ".join(sorted({self._slot(one) for one in devices}))
        return f"This agent has no {slot}; of devices it offers {offered or 'none'}."

    def _adopt(self, said: Mapping[str, str]) -> Held:
        with self._book.locked():
            held = self._book.read()
            for kernel_id in sorted(said.keys() - held.keys()):
                if (allotment := _allotment(kernel_id, said[kernel_id])) is not None:
                    log.warning("what kernel %s has of devices is known from it alone", kernel_id)
                    self._book.write(allotment)
                    held[kernel_id] = allotment
        return held

    def _slot(self, device: Device) -> str:
        return device.slot(divided=self._settings.divide_devices)


def _pieces(held: Held) -> Iterator[Piece]:
    for allotment in held.values():
        yield from allotment.pieces


def _held_otherwise(device: Device, slot: str, held: Held) -> bool:
    return any(p.device_id == device.id and p.slot != slot for p in _pieces(held))


def _free(device: Device, slot: str, held: Held) -> Decimal:
    if _held_otherwise(device, slot, held):
        return Decimal(0)
    used = sum((p.amount for p in _pieces(held) if p.device_id == device.id), Decimal(0))
    return device.amount(slot) - used


def _still_holds(allotment: Allotment, wanted: Slots, known: Iterable[str]) -> bool:
    """Whether what a kernel has is what it asks for, of devices that are there."""
    total = Slots()
    for piece in allotment.pieces:
        total += Slots({piece.slot: piece.amount})
    return total == wanted and {p.device_id for p in allotment.pieces} <= set(known)


def _allotment(kernel_id: str, record: str) -> Allotment | None:
    try:
        found = Allotment.model_validate_json(record)
    except ValueError:
        log.warning("what the container of kernel %s says of its devices is damaged", kernel_id)
        return None
    return found if found.kernel_id == kernel_id else None
