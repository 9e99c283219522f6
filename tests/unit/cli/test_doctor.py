"""What ``doctor`` finds wrong, and that it finds it."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from traitlets.config import Config

from backendai_jupyter.cli import installation, machine
from backendai_jupyter.cli.checks import CHECKS, run_checks
from backendai_jupyter.cli.doctor import rows, verdict
from backendai_jupyter.cli.findings import Finding, Found, Settings, State
from backendai_jupyter.errors import RelayFailed
from backendai_jupyter.store.migrate import downgrade, upgrade
from tests.accelerators import PluginInMemory, some_devices


@pytest.fixture
def config(short_tmp_path: Path) -> Config:
    config = Config()
    config.BackendAI.data_dir = str(short_tmp_path / "backendai")
    config.BackendAI.runtime_dir = str(short_tmp_path / "r")
    config.BackendAIAgent.runtime = "process"
    return config


@pytest.fixture
def settings(config: Config) -> Settings:
    settings = Settings.of(config)
    settings.data_dir.mkdir(mode=0o700)
    return settings


async def test_all_checks_run_and_leave_nothing_behind(
    config: Config, short_tmp_path: Path
) -> None:
    found = {finding.check: finding for finding in await run_checks(config)}
    assert list(found) == list(CHECKS)
    assert found["relay"].state is State.OK, found["relay"]
    assert found["data directory"].message.endswith("will be made at the first start")
    assert names_in(short_tmp_path) <= {"ipython"}  # which is jupyter_client's doing


async def test_a_check_that_breaks_is_a_finding(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_: Settings) -> Found:
        raise RelayFailed("The relay broke.")

    monkeypatch.setitem(CHECKS, "relay", breaks)
    found = {finding.check: finding for finding in await run_checks(config)}
    assert (found["relay"].state, found["relay"].message) == (State.FAIL, "The relay broke.")


def test_a_secret_that_others_may_read_fails(settings: Settings) -> None:
    secret = settings.data_dir / "backendai.sqlite"
    secret.touch(mode=0o600)
    assert machine.secret_files(settings).state is State.OK
    secret.chmod(0o640)
    found = machine.secret_files(settings)
    assert found.state is State.FAIL
    assert found.advice == f"chmod 600 {secret}"


def test_a_data_directory_that_others_may_enter_fails(settings: Settings) -> None:
    assert machine.data_dir(settings).state is State.OK
    settings.data_dir.chmod(0o750)
    assert machine.data_dir(settings).state is State.FAIL


def test_a_runtime_directory_that_others_may_write_to_fails(settings: Settings) -> None:
    path = Path(settings.manager.runtime_dir)
    assert machine.runtime_dir(settings).state is State.OK
    path.mkdir(mode=0o711)
    assert machine.runtime_dir(settings).state is State.OK
    path.chmod(0o777)
    assert machine.runtime_dir(settings).state is State.FAIL
    shutil.rmtree(path)
    path.symlink_to(settings.data_dir)
    assert machine.runtime_dir(settings).state is State.FAIL


async def test_a_schema_that_is_not_the_newest_is_told(settings: Settings) -> None:
    url = settings.manager.database_url
    assert (await machine.database(settings)).message == "will be made at the first start"
    await upgrade(url)
    assert (await machine.database(settings)).state is State.OK
    await downgrade(url)
    assert (await machine.database(settings)).state is State.WARN


async def test_a_file_that_is_no_database_fails(config: Config, settings: Settings) -> None:
    (settings.data_dir / "backendai.sqlite").write_text("this is not a database, and long enough")
    found = {finding.check: finding for finding in await run_checks(config)}
    assert found["database"].state is State.FAIL
    assert "backendai.sqlite" in found["database"].message


async def test_an_engine_that_is_required_and_does_not_answer_fails(
    config: Config, short_tmp_path: Path
) -> None:
    config.BackendAIAgent.docker_url = f"unix://{short_tmp_path}/nothing.sock"
    states = {}
    for runtime in ("process", "auto", "docker"):
        config.BackendAIAgent.runtime = runtime
        states[runtime] = (await machine.docker(Settings.of(config))).state
    assert states == {"process": State.OK, "auto": State.WARN, "docker": State.FAIL}


def test_what_a_killed_process_left_is_told(settings: Settings) -> None:
    instance = settings.data_dir / "instances" / "c"
    instance.mkdir(parents=True)
    descriptor = os.open(instance / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert machine.remains(settings).message == "none; 1 at work"
    os.close(descriptor)
    assert machine.remains(settings).state is State.WARN


def test_too_little_memory_is_told(config: Config) -> None:
    assert machine.capacity(Settings.of(config)).state is State.OK
    config.BackendAIAgent.mem_reserve = "100t"
    assert machine.capacity(Settings.of(config)).state is State.WARN


def test_an_old_package_fails(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.packages(settings).state is State.OK
    monkeypatch.setitem(installation.NEEDED, "jupyter_client", (99, 1))
    found = installation.packages(settings)
    assert (found.state, found.advice) == (
        State.FAIL,
        "pip install --upgrade 'jupyter_client>=99.1'",
    )


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def finding(state: State, advice: str = "") -> Finding:
    return Finding(check="x", state=state, message="m", advice=advice)


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([State.OK], "Kernels can run here."),
        ([State.OK, State.WARN], "Kernels can run here, with 1 warning."),
        ([State.WARN, State.FAIL], "1 of 2 checks failed."),
    ],
)
def test_the_verdict(states: list[State], text: str) -> None:
    assert verdict([finding(state) for state in states]) == text


def test_advice_stands_below_what_it_is_for() -> None:
    assert rows([finding(State.WARN, "do this")]) == [("x", "warn", "m"), ("", "", "-> do this")]


async def test_devices_are_listed_and_those_that_cannot_be_used_are_a_warning(
    config: Config,
) -> None:
    config.BackendAIAgent.devices = [{"id": "npu0", "name": "Zero", "files": ["/dev/zero"]}]
    found = await machine.accelerators(Settings.of(config))
    assert found == Found(State.OK, "npu0 (Zero)")
    config.BackendAIAgent.devices = [{"id": "npu0", "files": ["/dev/is-not-there"]}]
    found = await machine.accelerators(Settings.of(config))
    assert (found.state, "/dev/is-not-there" in found.message) == (State.WARN, True)


async def test_gpus_without_the_toolkit_that_containers_need_are_a_warning(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = replace(some_devices(1)[0], by_toolkit=True)
    monkeypatch.setattr(machine, "make_plugin", lambda _: PluginInMemory([gpu]))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (await machine.accelerators(Settings.of(config))).state is State.OK  # no containers
    config.BackendAIAgent.runtime = "docker"
    found = await machine.accelerators(Settings.of(config))
    assert found.state is State.WARN
    assert "cuda0 (cuda); but kernels in containers cannot have them" in found.message
    (tmp_path / machine.TOOLKIT_HOOK).touch(mode=0o755)
    assert (await machine.accelerators(Settings.of(config))).state is State.OK


async def test_a_driver_that_was_asked_for_and_is_not_there_is_a_warning(config: Config) -> None:
    config.BackendAIAgent.accelerators = "nvml"
    found = await machine.accelerators(Settings.of(config))
    assert found.state is State.WARN
    assert "No accelerators are offered. No NVIDIA driver is installed here" in found.message
