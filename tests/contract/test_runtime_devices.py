"""What an agent may expect of every container runtime for kernels that have devices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from backendai_jupyter.agent.accelerators.book import Allotment, Piece
from backendai_jupyter.agent.accelerators.exposure import Exposure, expose
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.domain.devices import Device, DeviceFile
from backendai_jupyter.errors import RuntimeFailed
from tests.contract.test_runtime import FOREVER, Bench, bench, open_path

__all__ = ["bench", "open_path"]

LOOK = """
import json, os
def look(path):
    if not os.path.exists(path):
        return None
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")
        return [os.stat(path).st_rdev, len(file.read(2))]
print(json.dumps({path: look(path) for path in ("/dev/x0", "/dev/x1", "/dev/xctl")}))
"""
RDEV = {host: Path(host).stat().st_rdev for host in ("/dev/zero", "/dev/null")}
DEVICES = (
    Device("d0", files=(DeviceFile("/dev/zero", "/dev/x0"), DeviceFile("/dev/zero", "/dev/xctl"))),
    Device("d1", files=(DeviceFile("/dev/null", "/dev/x1"), DeviceFile("/dev/zero", "/dev/xctl"))),
)


def exposure(*devices: Device) -> Exposure:
    pieces = tuple(
        Piece(device_id=one.id, slot="cuda.device", amount=Decimal(1)) for one in devices
    )
    return expose(Allotment(kernel_id="k", pieces=pieces), {one.id: one for one in devices})


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        pytest.param((), {}, id="no device"),
        pytest.param(DEVICES[:1], {"/dev/x0": "/dev/zero", "/dev/xctl": "/dev/zero"}, id="one"),
        pytest.param(
            DEVICES,
            {"/dev/x0": "/dev/zero", "/dev/x1": "/dev/null", "/dev/xctl": "/dev/zero"},
            id="two that share a file",
        ),
    ],
)
async def test_a_kernel_sees_the_files_of_its_devices_and_no_other(
    bench: Bench, given: Sequence[Device], seen: dict[str, str]
) -> None:
    spec = bench.spec(LOOK, devices=exposure(*given))
    await bench.runtime.start(spec)
    await bench.ended(spec)
    found = json.loads(await bench.log(spec))
    assert {path: rdev for path, rdev in found.items() if rdev} == {
        path: [RDEV[host], 2 if host == "/dev/zero" else 0] for path, host in seen.items()
    }


async def test_a_container_says_with_which_devices_it_was_started(bench: Bench) -> None:
    given = exposure(DEVICES[0])
    spec = bench.spec(FOREVER, devices=given)
    assert (await bench.runtime.start(spec)).devices == given.record
    twin = bench.make_twin()
    await twin.open()
    try:
        [state] = await twin.list()
    finally:
        await twin.close()
    assert state.devices == given.record


async def test_a_device_that_has_gone_fails_the_start_and_leaves_nothing(bench: Bench) -> None:
    gone = Device("gone", files=(DeviceFile("/dev/is-not-there", "/dev/x0"),))
    with pytest.raises(RuntimeFailed, match="is-not-there"):
        await bench.runtime.start(bench.spec(FOREVER, devices=exposure(gone)))
    assert await bench.runtime.list() == []


async def test_nvidias_devices_need_its_toolkit_in_containers(bench: Bench) -> None:
    """A process needs none: NVML devices without files are just named to it."""
    spec = bench.spec(FOREVER, devices=exposure(replace(DEVICES[0], files=(), by_toolkit=True)))
    if isinstance(bench.runtime, DockerRuntime):
        with pytest.raises(RuntimeFailed, match="Install NVIDIA's container toolkit"):
            await bench.runtime.start(spec)
        assert await bench.runtime.list() == []
    else:
        assert (await bench.runtime.start(spec)).exit_code is None
