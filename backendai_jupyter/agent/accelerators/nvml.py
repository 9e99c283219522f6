"""NVIDIA's GPUs, as their driver's management library (NVML) lists them."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.accelerators.base import Inventory
from backendai_jupyter.domain.devices import Device, DeviceFile
from backendai_jupyter.errors import Unavailable

LIBRARY = "libnvidia-ml.so.1"
# What every CUDA program opens, whichever device it uses.
CONTROL_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")


def load_binding() -> Any | None:
    """Return the module ``pynvml``, or None where no NVIDIA driver is installed."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    # Late: it is large, and most nodes have no use for it.
    return importlib.import_module("pynvml")


class NvidiaDevices:
    """The GPUs of this node.

    Where there is no driver there are no devices, which is a failure only if they are
    ``required``.  A GPU that does not answer is left out, and the others are offered.
    """

    def __init__(self, *, required: bool, load: Callable[[], Any | None] = load_binding) -> None:
        self._required = required
        self._load = load
        self._binding: Any | None = None  # once the library is initialised

    def inventory(self) -> Inventory:
        nvml = self._binding or self._load()
        if nvml is None:
            if self._required:
                raise Unavailable(
                    f"No NVIDIA driver is installed here ({LIBRARY} cannot be loaded). Install "
                    "it, or set BackendAIAgent.accelerators to 'none'."
                )
            return Inventory()
        try:
            if self._binding is None:
                nvml.nvmlInit()
                self._binding = nvml
            return _joined(self._device(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            self.close()  # the next call begins anew: the driver may have been replaced
            raise Unavailable(f"The NVIDIA driver does not list its GPUs: {error}.") from error

    def close(self) -> None:
        nvml, self._binding = self._binding, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # it has gone by itself

    def _device(self, nvml: Any, index: int) -> Device | str:
        """Return one GPU, or in words why it is not offered."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if _is_divided(nvml, handle):
                return (
                    f"GPU {index} is not offered: MIG is on, and its instances cannot be given "
                    f"away yet. Turn it off: nvidia-smi -i {index} -mig 0"
                )
            return Device(
                id=_text(nvml.nvmlDeviceGetUUID(handle)),
                name=_text(nvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                files=tuple(_files(nvml, handle)),
                by_toolkit=True,
            )
        except nvml.NVMLError as error:
            return f"GPU {index} is not offered: {error}."


def _joined(found: Iterator[Device | str]) -> Inventory:
    known = tuple(found)
    return Inventory(
        tuple(one for one in known if isinstance(one, Device)),
        tuple(one for one in known if isinstance(one, str)),
    )


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # it cannot be: most GPUs do not know the question
    return bool(current)


def _files(nvml: Any, handle: Any) -> Iterator[DeviceFile]:
    """Yield what a program needs that is not in a container; in one the toolkit sees to it."""
    try:
        own = f"/dev/nvidia{nvml.nvmlDeviceGetMinorNumber(handle)}"
    except nvml.NVMLError:
        return  # as in WSL, where only containers can have it
    for path in (own, *CONTROL_FILES):
        if Path(path).exists():
            yield DeviceFile(path, path)


def _text(raw: str | bytes) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
