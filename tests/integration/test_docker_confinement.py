"""What a kernel in a container may do and see, read from inside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine import PrivateEngine
from tests.integration.docker_rig import DockerRig, new_rig

MIB = 1024 * 1024
LOOK_AROUND = """
import json, os, pathlib, resource, socket

def read(*candidates):
    for path in map(pathlib.Path, candidates):
        if path.exists():
            return path.read_text().strip()

def error_of(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return None

cg = "/sys/fs/cgroup/"
print(json.dumps({
    "status": dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines()),
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "pids": read(cg + "pids.max", cg + "pids/pids.max"),
    "memory": read(cg + "memory.max", cg + "memory/memory.limit_in_bytes"),
    "swap": read(cg + "memory.swap.max", cg + "memory/memory.memsw.limit_in_bytes"),
    "cpu": (read(cg + "cpu.max") or " ".join([
        read(cg + "cpu/cpu.cfs_quota_us"), read(cg + "cpu/cpu.cfs_period_us")])),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "connect": error_of(lambda: socket.create_connection(("10.255.255.1", 80), timeout=1)),
    "first": pathlib.Path("/proc/1/comm").read_text().strip(),
    "hostname": socket.gethostname(),
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "oom_score_adj": read("/proc/self/oom_score_adj"),
    "denied": [error_of(lambda path=path: open(path, "w")) for path in
               ("/etc/passwd", "/proc/sys/kernel/hostname")],
    "threads": os.environ["OMP_NUM_THREADS"],
}))
"""


async def look_around(
    engine: PrivateEngine, root: Path, *, shm_bytes: int = 0, **options: Any
) -> dict[str, Any]:
    async with new_rig(engine, root, **options) as rig:
        spec = rig.spec(LOOK_AROUND, memory_mib=300, cpu="1.5")
        spec = replace(spec, shm_bytes=shm_bytes)
        await rig.runtime.start(spec)
        facts: dict[str, Any] = json.loads(await rig.output(spec))
        return facts


@pytest.fixture
async def facts(engine: PrivateEngine, short_tmp_path: Path) -> dict[str, Any]:
    return await look_around(engine, short_tmp_path, pids_limit=lambda: 77)


async def test_a_kernel_is_an_unprivileged_user_who_can_gain_nothing(facts: dict[str, Any]) -> None:
    status = facts["status"]
    uid, gid, others = facts["ids"]
    assert (uid, gid, set(others) - {gid}) == (1000, 1000, set())
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert facts["denied"] == ["PermissionError", "OSError"]


async def test_a_kernel_has_the_limits_it_was_given(facts: dict[str, Any]) -> None:
    assert facts["pids"] == "77"
    assert facts["memory"] == str(300 * MIB)
    assert facts["swap"] in {"0", str(300 * MIB)}  # on top of memory, or both together
    quota, period = map(int, facts["cpu"].split())
    assert quota / period == 1.5
    assert facts["core"] == [0, 0]
    assert facts["shm"] == 64 * MIB
    assert facts["threads"] == "2"


async def test_as_much_memory_is_shared_as_was_asked_for(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    assert (await look_around(engine, short_tmp_path, shm_bytes=32 * MIB))["shm"] == 32 * MIB


async def test_a_kernel_has_an_init_a_name_and_goes_first_when_memory_is_short(
    facts: dict[str, Any],
) -> None:
    assert facts["first"] == "docker-init"
    assert facts["hostname"] == "main1"
    assert facts["oom_score_adj"] == "500"


async def test_on_a_bridge_a_kernel_has_a_network_and_no_published_port(rig: DockerRig) -> None:
    list_interfaces = "import os; print(os.listdir('/sys/class/net'), flush=True)\n"
    spec = rig.spec(list_interfaces + rig.WAIT)
    state = await rig.runtime.start(spec)
    await rig.says(spec, "'eth0'")
    seen = rig.inspect(state.container_id)
    assert not any(seen["NetworkSettings"]["Ports"].values())
    assert seen["HostConfig"]["PublishAllPorts"] is False


async def test_without_a_network_a_kernel_has_only_itself_to_talk_to(
    engine: PrivateEngine, short_tmp_path: Path
) -> None:
    facts = await look_around(engine, short_tmp_path, network="none")
    assert facts["interfaces"] == ["lo"]
    assert facts["connect"] == "OSError"  # network unreachable
