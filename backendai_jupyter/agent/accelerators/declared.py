"""Devices that the node's administrator has listed, for tests and hardware without a driver API."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from backendai_jupyter.agent.accelerators.base import Inventory
from backendai_jupyter.domain.devices import Device


class DeclaredDevices:
    """Those of the list whose device files are there, for kernels that run as ``uid:gid``."""

    def __init__(self, devices: Iterable[Device], *, uid: int, gid: int) -> None:
        self._devices = tuple(devices)
        self._uid, self._gid = uid, gid

    def inventory(self) -> Inventory:
        problems = {device.id: self._problem(device) for device in self._devices}
        return Inventory(
            tuple(device for device in self._devices if not problems[device.id]),
            tuple(filter(None, problems.values())),
        )

    def close(self) -> None:
        """There is nothing to let go of."""

    def _problem(self, device: Device) -> str:
        """Return in words why a device cannot be given away; empty if it can."""
        for file in device.files:
            try:
                found = Path(file.host).stat()
            except OSError as error:
                return f"The device {device.id} is not offered: {file.host}: {error.strerror}."
            if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
                return f"The device {device.id} is not offered: {file.host} is no device file."
            if not self._may_open(found):
                return (
                    f"The device {device.id} is not offered: kernels run as user {self._uid}, who "
                    f"may not read and write {file.host}."
                )
        return ""

    def _may_open(self, found: os.stat_result) -> bool:
        own, group = found.st_uid == self._uid, found.st_gid == self._gid
        rights = found.st_mode >> (6 if own else 3 if group else 0)
        return rights & 0o6 == 0o6
