"""A Docker Engine of the tests' own, with images made from Debian packages and wheels.

Nothing of the machine's own engine is touched.  What takes long to make (a Debian base,
wheels, built images) stays in ``$XDG_CACHE_HOME/backendai_jupyter/test-engine``; run
``python -m tests.engine`` to fill it ahead of the tests.  Containers get no way to the
Internet, so all that images need comes from the base or the wheels.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.engine_images import EngineImages
from tests.engine_materials import (
    find_command,
    has_command,
    run_command,
    say,
    search_path,
)

NEEDED = {
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "setpriv": "util-linux",
}
_STATE_PREFIX = "bj-engine-"
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0


class PrivateEngine(EngineImages):
    """A ``dockerd`` with its own data, socket and bridge; one per test run.

    Each of several at a time has cached data of its own.  A second engine of a run has a
    ``name``; with ``enter``, a command that runs another one elsewhere, it is on another machine.
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        name: str = "",
        enter: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        # A short name, because sockets live here.
        self.state = Path(tempfile.mkdtemp(prefix=f"{_STATE_PREFIX}{os.getpid()}-"))
        super().__init__(f"unix://{self.state}/docker.sock", cache or _cache_root())
        self._name = f"{name}-" if name else ""
        self._enter = enter
        self._extra = options
        self.pid = 0
        self._bridge = _bridge_of(os.getpid())
        self.data = Path()
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the engine answers; raises ``RuntimeError`` with its log otherwise."""
        _get_commands()
        _clear_up_after_killed_runs()
        self.data = self._claim_data()
        shutil.rmtree(self.data / "swarm", ignore_errors=True)  # of another run, as below
        _add_bridge(self._bridge, self._enter)
        self._launch()
        self.remove_containers()  # of a run that was killed

    def remove_containers(self) -> None:
        """End all that the engine has running."""
        with contextlib.closing(self.client()) as client:
            for left in client.containers(all=True):
                client.remove_container(left["Id"], force=True, v=True)
            client.prune_networks()

    def start_again(self) -> None:
        """Start an engine that was ended, with what it had; returns when it answers."""
        assert self._process is not None
        self._process.wait()
        (self.state / "ready.sock").unlink()
        # Its containerd ends as well; the new engine would take even its zombie for a living one.
        containerd = self.state / "exec" / "containerd" / "containerd.pid"
        _wait_for_end(containerd, self.state, signal.SIGKILL)
        containerd.unlink(missing_ok=True)
        self._launch()

    def _launch(self) -> None:
        with _ReadySocket(self.state / "ready.sock") as ready, self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                # However this process ends, its engine ends too.
                [
                    *("setpriv", "--pdeathsig", "TERM", *self._enter),
                    find_command("dockerd"),
                    *self._options(self.data),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(ready.path), "PATH": search_path()},
            )
            self.pid = self._process.pid
            if not ready.wait(self._process):
                said = self._log_path.read_text()[-4000:]
                self.stop()
                raise RuntimeError(f"dockerd did not start:\n{said}")

    def stop(self) -> None:
        """End the engine with all its containers; what is cached stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        _end_containers(self.state)
        _remove_bridge(self._bridge, self._enter)
        shutil.rmtree(self.state, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @property
    def _log_path(self) -> Path:
        return self.state / "dockerd.log"

    def _options(self, data: Path) -> list[str]:
        # Neither the host's firewall nor its forwarding is the tests' business.
        return [
            *("--data-root", str(data), "--exec-root", str(self.state / "exec")),
            *("--pidfile", str(self.state / "docker.pid"), "--host", self.url),
            *("--bridge", self._bridge, "--iptables=false", "--ip-forward=false"),
            *("--containerd-namespace", self._bridge, "--exec-opt", "native.cgroupdriver=cgroupfs"),
            *self._extra,
        ]

    def _claim_data(self) -> Path:
        name, number = self._name, 1
        while (lock := _lock_if_free(self.cache / f"{name}engine.lock")) is None:
            number += 1
            name = f"{self._name}{number}-"
        self._lock = lock
        return _made(self.cache / f"{name}data")


class _ReadySocket:
    """Where ``dockerd`` says ``READY=1``, as it does to systemd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)

    def __enter__(self) -> _ReadySocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + READY_WITHIN_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in self._socket.recv(4096):
                    return True
        return False


@pytest.fixture(scope="session")
def engine() -> Iterator[PrivateEngine]:
    """A private engine that has the images of all kernelspecs."""
    private = PrivateEngine()
    try:
        private.start()
        private.ensure_images()
        yield private
    finally:
        private.stop()


@pytest.fixture(scope="session")
def engine_url(engine: PrivateEngine) -> str:
    return engine.url


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let no test pay with its own time for an engine whose cache is empty.

    A test that asks for the engine only while it is set up says so with the mark ``docker``,
    which a parameter of a fixture can carry.
    """
    timeout_s = float(config.getini("timeout") or 0)
    for item in items:
        asked_for = set(getattr(item, "fixturenames", ())) & {"engine", "engine_url"}
        wants_engine = asked_for or item.get_closest_marker("docker")
        if wants_engine and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(timeout_s, func_only=True))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: runs on the private engine")


def _cache_root() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "backendai_jupyter" / "test-engine"


def _get_commands() -> None:
    missing = [package for command, package in NEEDED.items() if not has_command(command)]
    if not missing:
        return
    install = ["apt-get", "install", "-qy", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"Tests need a private Docker Engine: sudo {shlex.join(install)}")
    run_command(["apt-get", "update", "-q"])
    run_command(install)


def _add_bridge(name: str, enter: Sequence[str]) -> None:
    # Some subnet that nobody on this machine has: containers use it to reach each other.
    ip, third = [*enter, find_command("ip")], os.getpid() % 250 + 1
    run_command([*ip, "link", "add", name, "type", "bridge"])
    run_command([*ip, "addr", "add", f"10.213.{third}.1/24", "dev", name])
    run_command([*ip, "link", "set", name, "up"])


def _remove_bridge(name: str, enter: Sequence[str] = ()) -> None:
    delete = [*enter, find_command("ip"), "link", "del", name]
    subprocess.run(delete, capture_output=True, check=False)


def _bridge_of(pid: int) -> str:
    return f"bj{pid}"


def _clear_up_after_killed_runs() -> None:
    for state in Path(tempfile.gettempdir()).glob(f"{_STATE_PREFIX}*-*"):
        owner = int(state.name.removeprefix(_STATE_PREFIX).split("-")[0])
        if not Path(f"/proc/{owner}").exists():
            _end_engine(state)
            _end_containers(state)
            _remove_bridge(_bridge_of(owner))
            shutil.rmtree(state, ignore_errors=True)


def _end_engine(state: Path) -> None:
    """Wait until the engine with this state, which may still hold cached data, has ended."""
    _wait_for_end(state / "docker.pid", state, signal.SIGTERM)


def _end_containers(state: Path) -> None:
    """End what outlives an engine that was killed, or keeps containers over its restarts."""
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or ()
        if process.info["name"].startswith("containerd-shim") and str(state) in " ".join(words):
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in (process, *process.children(recursive=True)):
                    one.kill()


def _wait_for_end(pid_file: Path, state: Path, signum: int) -> None:
    """End a process of the engine with this state and wait until it is gone."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if str(state).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, signum)
            select.select([descriptor], [], [], STOP_WITHIN_S)
            os.close(descriptor)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _lock_if_free(path: Path) -> IO[str] | None:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _main() -> None:
    private = PrivateEngine()
    try:
        private.start()
        for image in private.ensure_images().values():
            say(f"{image.reference} has {image.size_bytes / 1e6:.0f} MB")
    finally:
        private.stop()


if __name__ == "__main__":
    _main()
