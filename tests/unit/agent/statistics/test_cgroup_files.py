"""Where a kernel's control group is found, and what nonsense in its files comes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.agent.statistics.cgroup_files import (
    Group,
    Hierarchy,
    group_path,
    hierarchies_of,
    memberships_of,
)
from tests.unit.agent.statistics.machine import CONTAINER, Machine

MIB = 1 << 20
CGROUP = f"0::/docker/{CONTAINER}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def group_of(machine: Machine, memberships: str) -> Group:
    return Group.of(memberships, (machine.proc / "self/mountinfo").read_text(), CONTAINER)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        pytest.param("/docker/4f5e8a", "/docker/4f5e8a", id="cgroupfs"),
        pytest.param("/docker/4f5e8a/init.scope", "/docker/4f5e8a", id="one of its own below"),
        pytest.param(
            "/system.slice/docker-4f5e8a.scope", "/system.slice/docker-4f5e8a.scope", id="systemd"
        ),
        pytest.param(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-4f5e8a.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-4f5e8a.scope",
            id="rootless",
        ),
        pytest.param("/backendai/4f5e8a", "/backendai/4f5e8a", id="process runtime"),
        pytest.param("/", None, id="the top"),
        pytest.param("/system.slice/docker.service", None, id="another's"),
    ],
)
def test_a_group_is_known_by_the_container_in_its_path(path: str, found: str | None) -> None:
    assert group_path(path, CONTAINER) == found


def test_controllers_may_share_a_hierarchy_and_a_name_is_none() -> None:
    text = "9:name=systemd:/x\n4:cpu,cpuacct:/docker/a\n0::/b:c\nnonsense\n"
    assert memberships_of(text) == {
        "name=systemd": "/x",
        "cpu": "/docker/a",
        "cpuacct": "/docker/a",
        "": "/b:c",
    }


def test_hierarchies_are_where_they_are_mounted() -> None:
    text = (
        "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 25 0:27 /a\\040b /sys/fs/cg\\134roup rw shared:1 master:2 - cgroup2 cgroup2 rw\n"
        "short\n"
    )
    found = hierarchies_of(text)
    assert found["cpuacct"] == Hierarchy("/", Path("/sys/fs/cgroup/cpu,cpuacct"))
    assert found[""] == Hierarchy("/a b", Path("/sys/fs/cg\\roup"))


def test_a_group_outside_of_what_is_mounted_here_cannot_be_read() -> None:
    inside = Hierarchy("/docker/agent", Path("/sys/fs/cgroup"))
    assert inside.directory("/docker/agent/x") == Path("/sys/fs/cgroup/x")
    assert inside.directory("/docker/other") is None
    assert Hierarchy("/", Path("/c")).directory("/../docker/x") is None


def test_version_2_says_what_a_group_uses(machine: Machine) -> None:
    machine.mount_v2()
    machine.group_v2(
        f"docker/{CONTAINER}",
        {
            "cgroup.procs": "11\n12",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1",
            "memory.current": 300 * MIB,
            "memory.stat": f"anon 5\ninactive_file {100 * MIB}\nactive_file 7",
            "memory.peak": 400 * MIB,
            "memory.max": 512 * MIB,
        },
    )
    group = group_of(machine, CGROUP)
    memory = group.memory()
    assert group.pids() == [11, 12]
    assert group.cpu_used_s() == 2.5
    assert memory is not None
    found = (memory.used_bytes, memory.peak_bytes, memory.limit_bytes)
    assert found == (200 * MIB, 400 * MIB, 512 * MIB)


def test_version_2_of_an_old_linux_keeps_no_peak_and_max_is_no_limit(machine: Machine) -> None:
    machine.mount_v2()
    files = {"memory.current": 5 * MIB, "memory.stat": "inactive_file 0", "memory.max": "max"}
    machine.group_v2(f"docker/{CONTAINER}", files)
    memory = group_of(machine, CGROUP).memory()
    assert memory is not None
    assert (memory.peak_bytes, memory.limit_bytes) == (5 * MIB, None)


def test_version_1_says_the_same_in_other_files(machine: Machine) -> None:
    machine.mount_v1("memory", "cpuacct")
    machine.group_v1(
        {
            "memory": {
                "cgroup.procs": "11",
                "memory.usage_in_bytes": 300 * MIB,
                "memory.max_usage_in_bytes": 400 * MIB,
                "memory.limit_in_bytes": 9223372036854771712,
                "memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}",
            },
            "cpuacct": {"cpuacct.usage": 1_500_000_000},
        }
    )
    group = group_of(machine, f"4:memory:/docker/{CONTAINER}\n2:cpuacct:/docker/{CONTAINER}\n0::/")
    memory = group.memory()
    assert (group.pids(), group.cpu_used_s()) == ([11], 1.5)
    assert memory is not None
    found = (memory.used_bytes, memory.peak_bytes, memory.limit_bytes)
    assert found == (200 * MIB, 400 * MIB, None)


def test_a_process_without_a_group_of_its_own_has_nothing_to_read(machine: Machine) -> None:
    machine.mount_v2()
    machine.group_v2(
        "", {"cgroup.procs": "1", "memory.current": 1, "memory.stat": "inactive_file 0"}
    )
    group = group_of(machine, "0::/\n4:memory:/process_api")
    assert (group.pids(), group.cpu_used_s(), group.memory()) == (None, None, None)


@pytest.mark.parametrize("nonsense", ["", "-1", "many", "1 2", "٣", "1e9", "max"])
def test_nonsense_is_not_taken_for_a_number(machine: Machine, nonsense: str) -> None:
    machine.mount_v2()
    machine.group_v2(
        f"docker/{CONTAINER}",
        {
            "cgroup.procs": nonsense,
            "cpu.stat": f"usage_usec {nonsense}" if nonsense != "1 2" else "usage_usecs 1",
            "memory.current": nonsense,
            "memory.stat": "inactive_file 0",
        },
    )
    group = group_of(machine, CGROUP)
    assert (group.cpu_used_s(), group.memory()) == (None, None)


@given(st.text(), st.text())
def test_no_text_breaks_a_reader(memberships: str, mountinfo: str) -> None:
    group = Group.of(memberships, mountinfo, CONTAINER)
    assert group.memory() is None


@given(st.text(st.characters(exclude_characters="\n\0/"), min_size=1))
def test_any_name_of_a_mount_point_is_understood(name: str) -> None:
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\\" else c for c in name)
    line = f"1 2 0:3 / /sys/{escaped} rw - cgroup2 cgroup2 rw"
    assert hierarchies_of(line)[""].point == Path(f"/sys/{name}")
