"""What an administrator may list as a device, and what is said where it cannot be one."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from backendai_jupyter.agent.accelerators.declared import DeclaredDevices
from backendai_jupyter.agent.accelerators.nvml import NvidiaDevices
from backendai_jupyter.agent.accelerators.plugins import make_plugin
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.domain.devices import Device, DeviceFile

NOBODY = 65534


def test_everything_that_can_be_said_of_a_device() -> None:
    settings = BackendAIAgent(
        devices=[
            {
                "id": "npu-0",
                "kind": "tpu",
                "name": "Edge",
                "memory": "8g",
                "shares": "1.5",
                "files": ["/dev/apex_0", "/dev/zero:/dev/x"],
            },
            {"id": "gpu.1"},
        ]
    )
    first, second = settings.declared()
    files = (DeviceFile("/dev/apex_0", "/dev/apex_0"), DeviceFile("/dev/zero", "/dev/x"))
    assert first == Device("npu-0", "tpu", "Edge", 8 << 30, Decimal("1.5"), files)
    assert second == Device("gpu.1")
    assert (first.slot(divided=True), second.slot(divided=True)) == ("tpu.device", "cuda.shares")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({}, "devices[1].id: is needed", id="no id"),
        pytest.param({"id": "a b"}, "devices[1].id: is needed: letters", id="an id with a space"),
        pytest.param({"id": "ok"}, "devices[1].id: 'ok' is there twice", id="an id twice"),
        pytest.param(
            {"id": "x", "kind": "F P"}, "devices[1].kind: 'F P'", id="a kind that is no name"
        ),
        pytest.param({"id": "x", "kind": []}, "devices[1].kind: []", id="a kind that is no text"),
        pytest.param({"id": "x", "memory": "big"}, "devices[1].memory: 'big'", id="no size"),
        pytest.param({"id": "x", "shares": 0}, "devices[1].shares: must be", id="no shares"),
        pytest.param({"id": "x", "shares": "0.0001"}, "devices[1].shares: '0.0001'", id="too fine"),
        pytest.param({"id": "x", "files": "/dev/x"}, "devices[1].files: expected", id="no list"),
        pytest.param({"id": "x", "files": ["dev/x"]}, "devices[1].files[0]: ", id="relative"),
        pytest.param({"id": "x", "files": ["/dev/../etc"]}, "devices[1].files[0]: ", id="upwards"),
        pytest.param(
            {"id": "x", "files": ["/dev/x:/etc/x"]},
            "devices[1].files[0]: '/dev/x:/etc/x' must",
            id="not below /dev",
        ),
        pytest.param({"id": "x", "size": 1}, "devices[1].size: there is no", id="unknown field"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, object], said: str) -> None:
    config = Config()
    config.BackendAIAgent.devices = [{"id": "ok"}, wrong]
    with pytest.raises(TraitError) as caught:
        BackendAIAgent(config=config)
    assert f"BackendAIAgent.{said}" in str(caught.value)


def test_a_device_whose_file_is_missing_or_none_or_locked_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files = ("/dev/zero", str(tmp_path / "none"), str(tmp_path / "plain"), "/dev/kmsg")
    devices = [Device(f"d{n}", files=(DeviceFile(path, path),)) for n, path in enumerate(files)]
    found = DeclaredDevices(devices, uid=NOBODY, gid=NOBODY).inventory()
    assert [device.id for device in found.devices] == ["d0"]
    missing, plain, locked = found.notes
    assert "d1 is not offered" in missing
    assert "No such file" in missing
    assert "is no device file" in plain
    assert "who may not read and write /dev/kmsg" in locked


@pytest.mark.parametrize(
    ("traits", "kind"),
    [
        pytest.param({}, NvidiaDevices, id="nothing said"),
        pytest.param({"devices": [{"id": "x"}]}, DeclaredDevices, id="a list"),
        pytest.param({"accelerators": "none"}, DeclaredDevices, id="none"),
        pytest.param({"accelerators": "declared"}, DeclaredDevices, id="an empty list"),
        pytest.param(
            {"accelerators": "nvml", "devices": [{"id": "x"}]}, NvidiaDevices, id="NVIDIA's"
        ),
    ],
)
def test_the_settings_choose_the_plugin(traits: dict[str, object], kind: type[object]) -> None:
    assert type(make_plugin(BackendAIAgent(**traits))) is kind


def test_none_means_none_whatever_is_listed() -> None:
    plugin = make_plugin(BackendAIAgent(accelerators="none", devices=[{"id": "x"}]))
    assert not plugin.inventory().devices


def test_files_belong_to_whoever_runs_the_kernels() -> None:
    mine = Device("tty", files=(DeviceFile("/dev/zero", "/dev/zero"),))
    assert DeclaredDevices([mine], uid=os.getuid(), gid=os.getgid()).inventory().devices
