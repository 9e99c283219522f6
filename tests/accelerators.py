"""Accelerators for tests: plugins without hardware, and a driver library without a driver."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.agent.accelerators.base import AcceleratorPlugin, Inventory
from backendai_jupyter.agent.accelerators.pool import DevicePool
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.devices import Device
from backendai_jupyter.errors import Unavailable

_SOURCE = Path(__file__).with_name("fake_nvml.c")


def some_devices(count: int, *, kind: str = "cuda", shares: str = "1") -> tuple[Device, ...]:
    return tuple(
        Device(f"{kind}{n}", kind=kind, memory_bytes=16 << 30, shares=Decimal(shares))
        for n in range(count)
    )


class PluginInMemory:
    """Its devices are what ``devices`` says now."""

    def __init__(self, devices: Sequence[Device] = ()) -> None:
        self.devices = tuple(devices)
        self.is_closed = False

    def inventory(self) -> Inventory:
        return Inventory(self.devices)

    def close(self) -> None:
        self.is_closed = True


class PluginWhoseDriverIsGone(PluginInMemory):
    def inventory(self) -> Inventory:
        raise Unavailable("The driver is gone.")


class PluginThatBreaks(PluginInMemory):
    def inventory(self) -> Inventory:
        raise KeyError("a field that an older driver lacks")


class PluginThatHangs(PluginInMemory):
    """Until ``may_go_on`` is set, as often as it is asked."""

    def __init__(self, devices: Sequence[Device] = ()) -> None:
        super().__init__(devices)
        self.may_go_on = threading.Event()
        self.asked = 0

    def inventory(self) -> Inventory:
        self.asked += 1
        self.may_go_on.wait()
        return super().inventory()


def make_pool(
    scratch_root: Path,
    plugin: AcceleratorPlugin | None = None,
    settings: BackendAIAgent | None = None,
) -> DevicePool:
    """Return the pool of an agent whose kernels' directories are in ``scratch_root``."""
    scratch_root.mkdir(parents=True, exist_ok=True)
    return DevicePool(plugin or PluginInMemory(), scratch_root, settings or BackendAIAgent())


def build_fake_nvml(directory: Path) -> Path:
    """Compile the driver library; a process that has ``directory`` on its path finds it."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "libnvidia-ml.so.1"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True)
    return library
