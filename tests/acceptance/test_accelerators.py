"""Kernels that ask for devices: servers, agents and kernels as real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.accelerators import build_fake_nvml
from tests.acceptance.test_cluster import run, sessions
from tests.acceptance.test_operator import jupyter_backendai
from tests.cluster import Cluster
from tests.helpers import eventually
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(240)

DEVICES = [
    {"id": f"npu{n}", "name": "Zero", "memory": "16g", "files": [f"/dev/zero:/dev/npu{n}"]}
    for n in range(2)
]
LOOK = """
import json, os
env = {name: value for name, value in os.environ.items() if "DEVICE" in name}
print(json.dumps([env, sorted(name for name in os.listdir("/dev") if name.startswith("npu"))]))
"""
# A run that is killed while it waits for ever.
BATCH = """
import asyncio
from jupyter_client.manager import AsyncKernelManager

LOOK = "import json, os; print(json.dumps([n for n in os.listdir('/dev') if n.startswith('npu')]))"

def show(message):
    if message["msg_type"] == "stream":
        print(message["content"]["text"], end="", flush=True)

async def main():
    manager = AsyncKernelManager(kernel_name="backendai-python")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    await client.execute_interactive(LOOK, output_hook=show, allow_stdin=False)
    await asyncio.Event().wait()

asyncio.run(main())
"""
NONE = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        yield made


async def test_kernels_share_a_device_by_parts(cluster: Cluster) -> None:
    agent = await cluster.add_agent(devices=DEVICES, divide_devices=True)
    server = await cluster.add_server()
    halves = [await started(server, {"cuda.shares": 0.5}) for _ in range(2)]
    for kernel_id in halves:
        assert await sees(server, kernel_id) == [
            {
                "CUDA_VISIBLE_DEVICES": "npu0",
                "NVIDIA_VISIBLE_DEVICES": "npu0",
                "BACKENDAI_DEVICES": "npu0",
                "BACKENDAI_DEVICE_SHARES": "npu0:0.5",
                "BACKENDAI_DEVICE_MEMORY": f"npu0:{8 << 30}",
            },
            ["npu0"],
        ]
    none = await started(server, {"cpu": 1})
    assert await sees(server, none) == [NONE, []]
    refused = await ask(server, {"cuda.device": 1})
    assert refused.json()["slot"] == "cuda.device", refused.text
    shown = await jupyter_backendai("agent", "show", agent.name, env=server.env)
    assert "1 of 1" in shown.out, shown
    found = (await server.get(f"backendai/v1/agents/{agent.name}")).json()
    sharing = {one["id"] for one in await sessions(server) if "cuda.shares" in slots_of(one)}
    assert {one["session_id"] for one in found["devices"][0]["holders"]} == sharing
    assert found["devices"][1]["holders"] == []


async def test_a_whole_device_has_one_kernel_at_a_time_whatever_happens_to_its_agent(
    cluster: Cluster,
) -> None:
    agent = await cluster.add_agent(devices=DEVICES)
    server = await cluster.add_server()
    first, second = await asyncio.gather(*(started(server, {"cuda.device": 1}) for _ in "ab"))
    owners = await devices(server, agent.name)
    assert sorted(owners) == ["npu0", "npu1"]
    third = asyncio.ensure_future(started(server, {"cuda.device": 1}))
    await eventually(lambda: is_waiting(server), within_s=30)
    await agent.kill()
    await agent.start()
    assert {(await sees(server, kernel_id))[1][0] for kernel_id in (first, second)} == {
        "npu0",
        "npu1",
    }
    assert await devices(server, agent.name) == owners
    [freed] = (await sees(server, first))[1]
    assert (await server.post(f"api/kernels/{second}/restart")).status_code == 200
    assert (await sees(server, second))[1] == sorted({"npu0", "npu1"} - {freed})
    assert (await server.delete(f"api/kernels/{first}")).status_code == 204
    assert (await sees(server, await third))[1] == [freed]


async def test_a_start_that_fails_gives_its_devices_back(cluster: Cluster) -> None:
    agent = await cluster.add_agent(devices=DEVICES)
    server = await cluster.add_server()
    failed = await ask(server, {"cuda.device": 2}, env={"PYTHONHOME": "/nowhere"})
    assert failed.status_code >= 500, failed.text
    await eventually(lambda: nobody_has_any(server, agent.name), within_s=30)
    both = await started(server, {"cuda.device": 2})
    assert (await sees(server, both))[1] == ["npu0", "npu1"]


async def test_a_server_and_a_batch_run_share_the_devices_of_their_machine(
    short_tmp_path: Path,
) -> None:
    config = f"c.BackendAIAgent.runtime = 'process'\nc.BackendAIAgent.devices = {DEVICES!r}\n"
    async with RunningServer(short_tmp_path, config=config) as server:
        ours = await started(server, {"cuda.device": 1})
        env = {**server.env, "BACKENDAI_RESOURCES": "cuda.device=1"}
        batch = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BATCH, env=env, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert batch.stdout is not None
            theirs = json.loads(await batch.stdout.readline())
            assert sorted((await sees(server, ours))[1] + theirs) == ["npu0", "npu1"]
            third = asyncio.ensure_future(started(server, {"cuda.device": 1}))
            await eventually(lambda: is_waiting(server), within_s=30)
        finally:
            batch.kill()
            await batch.wait()
        assert (await sees(server, await third))[1] == theirs


async def test_gpus_of_the_nvidia_driver(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_fake_nvml(tmp_path / "nvml").parent))
    monkeypatch.setenv("FAKE_NVML", "ok lost ok")
    agent = await cluster.add_agent(accelerators="nvml")
    server = await cluster.add_server()
    kernel_id = await started(server, {"cuda.device": 2})
    env, _ = await sees(server, kernel_id)
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-0000-0,GPU-0000-2"
    shown = await jupyter_backendai("agent", "show", agent.name, env=server.env)
    assert "Fake H100" in shown.out
    assert "GPU 1 is not offered: GPU is lost" in shown.out


async def test_a_node_whose_driver_does_not_answer_runs_kernels_without(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_fake_nvml(tmp_path / "nvml").parent))
    monkeypatch.setenv("FAKE_NVML", "hung")
    agent = await cluster.add_agent(accelerator_timeout_s=0.5)
    server = await cluster.add_server()
    assert (await sees(server, await started(server, {"cpu": 1})))[0] == NONE
    assert "No accelerators are offered" in agent.log
    notes = (await server.get(f"backendai/v1/agents/{agent.name}")).json()["notes"]
    assert any("No accelerators are offered" in note for note in notes)
    await agent.stop()


async def ask(server: RunningServer, resources: dict[str, Any], **options: object) -> Any:
    body = {"name": "backendai-python", "backendai": {"resources": resources, **options}}
    return await server.post("api/kernels", json=body)


async def started(server: RunningServer, resources: dict[str, Any]) -> str:
    answer = await ask(server, resources)
    assert answer.status_code == 201, (answer.text, server.log)
    return str(answer.json()["id"])


async def sees(server: RunningServer, kernel_id: str) -> list[Any]:
    """Return the variables about devices and the device files that a kernel has."""
    return list(json.loads(await run(server, kernel_id, LOOK)))


async def devices(server: RunningServer, agent_id: str) -> dict[str, list[str]]:
    """Return the kernels that each device is reported to have."""
    found = (await server.get(f"backendai/v1/agents/{agent_id}")).json()["devices"]
    return {one["id"]: [holder["kernel_id"] for holder in one["holders"]] for one in found}


def slots_of(session: dict[str, Any]) -> dict[str, str]:
    return dict(session["kernels"][0]["slots"])


async def nobody_has_any(server: RunningServer, agent_id: str) -> bool:
    return not any((await devices(server, agent_id)).values())


async def is_waiting(server: RunningServer) -> bool:
    return any(session["status"] == "PENDING" for session in await sessions(server))
