"""What a sandboxed kernel can see, be and change: asked from inside."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.agent.runtime.bubblewrap import python_paths
from backendai_jupyter.domain.wire import Mount
from backendai_jupyter.errors import RuntimeFailed
from tests.integration.process_rig import FOREVER, Rig, cgroups_of, command_lines

SECRET = "the-secret-of-a-test"


@pytest.fixture
async def rig(short_tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(short_tmp_path)
    await rig.runtime.open()
    assert not any("not confined" in note for note in rig.runtime.notes())
    yield rig
    for state in await rig.runtime.list():
        await rig.runtime.stop(state.kernel_id, grace_s=0)
    await rig.runtime.close()


async def test_a_kernel_is_nobody_of_importance_and_stays_so(rig: Rig) -> None:
    said = await rig.output("print(open('/proc/self/status').read())")
    status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
    assert {int(status[f"Cap{which}"], 16) for which in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"


async def test_a_kernel_sees_no_process_but_its_own(rig: Rig) -> None:
    said = await rig.output(
        "import os; print(os.getpid(), *sorted(p for p in os.listdir('/proc') if p.isdigit()))"
    )
    assert said.split() == ["2", "1", "2"]


async def test_a_kernel_starts_with_the_standard_files_open_and_no_other(rig: Rig) -> None:
    said = await rig.output("import os; print(*os.listdir('/proc/self/fd'))")
    assert said.split() == ["0", "1", "2", "3"]  # 3 is the listing itself


async def test_a_kernel_sees_nothing_of_the_node_but_the_system(rig: Rig) -> None:
    said = await rig.output("import os, json; print(json.dumps(os.listdir('/')))")
    system = {"bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr"}
    own = {"dev", "home", "proc", "run", "tmp", "var"}
    python = {path.parts[1] for path in python_paths()}
    assert set(json.loads(said)) <= system | own | python


async def test_a_kernel_cannot_read_what_belongs_to_others(rig: Rig) -> None:
    other = rig.spec(FOREVER)
    await rig.runtime.start(other)
    await rig.says(other, "ready")
    hidden = [other.home_dir, other.run_dir, rig.runtime_dir, Path("/run/docker.sock")]
    hidden += [Path("/etc/shadow"), Path("/etc/machine-id"), Path("/sys"), Path("/boot")]
    look = f"import os; print(*(os.path.lexists(p) for p in {list(map(str, hidden))}))"
    assert set((await rig.output(look)).split()) == {"False"}


async def test_a_home_that_holds_the_python_in_use_shows_nothing_else(rig: Rig) -> None:
    home = Path.home()
    passed = {
        path.relative_to(home).parts[0] for path in python_paths() if path.is_relative_to(home)
    }
    code = (
        f"import os; print(*(os.listdir({str(home)!r}) if os.path.exists({str(home)!r}) else ()))"
    )
    assert set((await rig.output(code)).split()) == passed


async def test_system_and_python_are_read_only(rig: Rig) -> None:
    places = ["/", "/usr", "/bin", "/etc/ssl/certs", "/etc/passwd", sys.prefix, sys.base_prefix]
    code = f"import os; print(*(os.statvfs(p).f_flag & os.ST_RDONLY for p in {places}))"
    assert (await rig.output(code)).split() == ["1"] * len(places)


async def test_each_kernel_has_its_own_tmp_and_shared_memory(rig: Rig) -> None:
    first = rig.spec("open('/tmp/mark', 'w'); open('/dev/shm/mark', 'w')\n" + FOREVER)
    await rig.runtime.start(first)
    await rig.says(first, "ready")
    look = "import os; print(os.path.exists('/tmp/mark'), os.path.exists('/dev/shm/mark'))"
    assert await rig.output(look) == "False False\n"
    assert "mark" not in os.listdir("/tmp") + os.listdir("/dev/shm")  # noqa: PTH208


async def test_as_much_memory_is_shared_as_was_asked_for(rig: Rig) -> None:
    code = "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)"
    assert await rig.output(code, shm_bytes=32 << 20) == f"{32 << 20}\n"


async def test_semaphores_of_multiprocessing_work(rig: Rig) -> None:
    code = "import multiprocessing as m; p = m.Pool(1); print(p.map(abs, [-3])); p.terminate()"
    assert await rig.output(code) == "[3]\n"


async def test_a_kernel_knows_its_own_name_and_user(rig: Rig) -> None:
    code = (
        "import socket, getpass, pwd, os\n"
        "name = socket.gethostname()\n"
        "print(name, socket.gethostbyname(name), pwd.getpwuid(os.getuid()).pw_name)"
    )
    assert (await rig.output(code, hostname="sub3")).split() == ["sub3", "127.0.1.1", "work"]


async def test_the_environment_is_exactly_what_was_given_and_the_usual(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/secret")
    given = {"A": 'it\'s "$HOME"\n`x`\\', "OMP_NUM_THREADS": "7", "LANG": "de_DE.UTF-8"}
    said = await rig.output("import os, json; print(json.dumps(dict(os.environ)))", env=given)
    env = json.loads(said)
    assert {name: env[name] for name in given} == given
    usual = {"HOME", "USER", "LOGNAME", "PATH"}
    python_adds = {"LC_CTYPE"}
    assert set(env) - python_adds == usual | set(given)


async def test_threads_of_numerical_libraries_follow_the_cpu_limit(rig: Rig) -> None:
    assert await rig.output("import os; print(os.environ['OMP_NUM_THREADS'])") == "1\n"


async def test_no_value_of_the_environment_shows_in_a_list_of_processes(rig: Rig) -> None:
    spec = rig.spec(FOREVER, env={"TOKEN": SECRET})
    await rig.runtime.start(spec)
    await rig.says(spec, "ready")
    assert not [line for line in command_lines() if SECRET in line]


async def test_nothing_that_runs_as_root_loads_a_library_of_the_kernels_choice(rig: Rig) -> None:
    # The dynamic linker complains once for each program that is asked to load it.
    said = await rig.output("", env={"LD_PRELOAD": "/home/work/evil.so"})
    assert said.count("evil.so") == 1


async def test_a_link_in_place_of_a_folder_is_not_followed(rig: Rig) -> None:
    source = rig.folder("data")
    spec = rig.spec("", mounts=(Mount(source=str(source), target="/home/work/data/deep"),))
    (spec.home_dir / "data").symlink_to(rig.root)
    with pytest.raises(RuntimeFailed, match="/home/work/data/deep cannot be shown"):
        await rig.runtime.start(spec)
    assert not (rig.root / "deep").exists()


async def test_mount_points_belong_to_the_kernels_user(rig: Rig) -> None:
    source = rig.folder("data")
    spec = rig.spec(FOREVER, mounts=(Mount(source=str(source), target="/home/work/a/b"),))
    await rig.runtime.start(spec)
    made = [os.lstat(spec.home_dir / name) for name in ("a", "a/b")]
    assert [(m.st_uid, stat.S_ISDIR(m.st_mode)) for m in made] == [(spec.uid, True)] * 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mounts": (Mount(source="/nonexistent", target="/home/work/x"),)}, "/nonexistent"),
        ({"argv": ("no-such-program",)}, "no program no-such-program"),
        ({"env": {"a b": "c"}}, "'a b'"),
        ({"uid": 0}, "never runs as root"),
        ({"kernel_id": "../up"}, "'../up'"),
    ],
    ids=["folder", "program", "variable", "root", "id"],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    rig: Rig, changes: dict[str, object], why: str
) -> None:
    spec = rig.spec(FOREVER, **changes)
    with pytest.raises(RuntimeFailed, match=why):
        await rig.runtime.start(spec)
    assert await rig.runtime.list() == []
    assert list(rig.runtime_dir.iterdir()) == []
    assert not [line for line in command_lines() if str(rig.runtime_dir) in line]
    assert cgroups_of(f"{spec.kernel_id}-*") == []
