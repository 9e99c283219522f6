"""What an agent may expect of every accelerator plugin: a list of devices, and NVIDIA's library."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest

from backendai_jupyter.agent.accelerators.base import AcceleratorPlugin
from backendai_jupyter.agent.accelerators.declared import DeclaredDevices
from backendai_jupyter.agent.accelerators.nvml import NvidiaDevices
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.devices import DEVICE_ID, Device, DeviceFile
from backendai_jupyter.errors import Unavailable
from tests.accelerators import build_fake_nvml, make_pool


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def load(fake_nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return what loads NVIDIA's binding over the library without a driver."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fake_nvml)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return lambda: pynvml


@dataclass
class Bench:
    """A plugin over two devices; ``break_one`` takes the first away."""

    plugin: AcceleratorPlugin
    break_one: Callable[[], None]


@pytest.fixture(params=["declared", "nvml"])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    if request.param == "declared":
        link = tmp_path / "device"
        link.symlink_to("/dev/zero")
        files = [(DeviceFile(str(link), "/dev/x"),), (DeviceFile("/dev/null", "/dev/y"),)]
        devices = [Device(f"d{n}", memory_bytes=1, files=files[n]) for n in range(2)]
        plugin: AcceleratorPlugin = DeclaredDevices(devices, uid=65534, gid=65534)
        yield Bench(plugin, link.unlink)
    else:
        monkeypatch.setenv("FAKE_NVML", "ok ok")
        load = request.getfixturevalue("load")
        plugin = NvidiaDevices(required=True, load=load)
        yield Bench(plugin, lambda: monkeypatch.setenv("FAKE_NVML", "lost ok"))
    plugin.close()


def test_devices_are_listed_in_the_same_order_each_time(bench: Bench) -> None:
    first, again = bench.plugin.inventory(), bench.plugin.inventory()
    assert first == again
    assert len(first.devices) == 2
    assert first.notes == ()
    for device in first.devices:
        assert DEVICE_ID.fullmatch(device.id)
        assert device.kind == "cuda"
        assert device.memory_bytes > 0


def test_a_device_that_breaks_is_left_out_and_said(bench: Bench) -> None:
    whole = bench.plugin.inventory()
    bench.break_one()
    rest = bench.plugin.inventory()
    assert rest.devices == whole.devices[1:]
    [note] = rest.notes
    assert "is not offered" in note


def test_a_plugin_that_was_closed_can_be_asked_again(bench: Bench) -> None:
    bench.plugin.close()
    found = bench.plugin.inventory()
    bench.plugin.close()
    bench.plugin.close()
    assert bench.plugin.inventory() == found


def test_what_nvidia_says_of_a_gpu(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "ok mig wsl")
    found = NvidiaDevices(required=True, load=load).inventory()
    first, second = found.devices
    assert (first.id, first.name, first.memory_bytes) == ("GPU-0000-0", "Fake H100", 80 << 30)
    assert first.by_toolkit
    assert (second.id, second.files) == ("GPU-0000-2", ())
    [note] = found.notes
    assert note.startswith("GPU 1 is not offered: MIG is on")


def test_a_driver_that_is_not_loaded_is_looked_for_again(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = NvidiaDevices(required=False, load=load)
    monkeypatch.setenv("FAKE_NVML", "unloaded")
    with pytest.raises(Unavailable, match="Driver Not Loaded"):
        plugin.inventory()
    monkeypatch.setenv("FAKE_NVML", "ok")
    assert len(plugin.inventory().devices) == 1
    monkeypatch.setenv("FAKE_NVML", "unloaded")  # under the program that uses it
    with pytest.raises(Unavailable, match="does not list its GPUs"):
        plugin.inventory()
    monkeypatch.setenv("FAKE_NVML", "ok ok")
    assert len(plugin.inventory().devices) == 2


def test_no_driver_is_no_failure_unless_it_is_asked_for() -> None:
    assert not NvidiaDevices(required=False, load=lambda: None).inventory().devices
    with pytest.raises(Unavailable, match="No NVIDIA driver is installed here"):
        NvidiaDevices(required=True, load=lambda: None).inventory()


async def test_a_driver_that_hangs_holds_up_neither_the_loop_nor_the_end(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_NVML", "hung")
    plugin = NvidiaDevices(required=True, load=load)
    settings = BackendAIAgent(accelerator_timeout_s=0.2)
    pool = make_pool(tmp_path / "scratch", plugin, settings)
    refreshing = asyncio.ensure_future(pool.refresh())
    assert await asyncio.to_thread(lambda: "done") == "done"
    assert not refreshing.done()
    await refreshing
    assert "did not answer within 0.2 s" in pool.notes()[0]
    assert not pool.capacity()
