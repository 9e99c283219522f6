"""A Docker Engine of the tests' own, with images made from Debian packages and wheels.

Nothing of the machine's own engine is touched.  What takes long to make (a Debian base,
wheels, built images) stays in ``$XDG_CACHE_HOME/backendai_jupyter/test-engine``; run
``python -m tests.engine`` to fill it ahead of the tests.  Containers get no way to the
Internet, so all that images need comes from the base or the wheels.
"""

from __future__ import annotations

import asyncio
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from docker import APIClient

from backendai_jupyter.agent.runtime.build import build_image
from backendai_jupyter.agent.runtime.docker_engine import image_of
from backendai_jupyter.domain.wire import Image
from tests.engine_materials import (
    KERNELSPECS,
    base_key,
    content_of,
    ensure_base_tarball,
    ensure_wheels,
    find_command,
    has_command,
    hash_of,
    run_command,
    say,
    search_path,
)

HASH_LABEL = "ai.backend.test.hash"
FROM_WHEELS = {"PIP_ARGS": "--no-index --find-links wheels"}
BASE_REPOSITORY = "backendai-test-base"
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


class PrivateEngine:
    """A ``dockerd`` with its own data, socket and bridge; one per test run.

    The first run at a time uses the cached data; one beside it begins with none.  A second
    engine of a run has a ``name``; with ``enter``, a command that runs another one elsewhere,
    it is on another machine.
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        name: str = "",
        enter: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.cache = cache or _cache_root()
        self._name = f"{name}-" if name else ""
        self._enter = enter
        self._extra = options
        self.cache.mkdir(parents=True, exist_ok=True)
        # A short name, because sockets live here.
        self.state = Path(tempfile.mkdtemp(prefix=f"{_STATE_PREFIX}{os.getpid()}-"))
        self.url = f"unix://{self.state}/docker.sock"
        self.pid = 0
        self.base = ""  # reference of the Debian base, and a folder of wheels: what images
        self.wheels = Path()  # are built from; known after ensure_images
        self._bridge = _bridge_of(os.getpid())
        self._data = Path()
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the engine answers; raises ``RuntimeError`` with its log otherwise."""
        _get_commands()
        _clear_up_after_killed_runs()
        self._data = self._claim_data()
        _add_bridge(self._bridge, self._enter)
        self._launch()
        self.remove_containers()  # of a run that was killed

    def remove_containers(self) -> None:
        """End all that the engine has running."""
        with contextlib.closing(self.client()) as client:
            for left in client.containers(all=True):
                client.remove_container(left["Id"], force=True, v=True)

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
                    *self._options(self._data),
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

    def client(self) -> Any:
        """Return a low-level client; the caller closes it."""
        return APIClient(self.url, version="auto", timeout=600)

    def ensure_images(self, names: Sequence[str] = ("python", "r")) -> dict[str, Image]:
        """Return the images of these kernelspecs, built where they are missing or outdated."""
        with _locked(self.cache / "files.lock"):
            tarball = ensure_base_tarball(self.cache)
            self.wheels = ensure_wheels(self.cache)
        self.base = self._ensure_base(tarball)
        return {name: self._ensure_image(name) for name in names}

    def copy_images(self, other: PrivateEngine, names: Sequence[str]) -> None:
        """Have the images that another engine has, without building them again."""
        with contextlib.closing(other.client()) as source, contextlib.closing(self.client()) as own:
            known = {image["Id"] for image in own.images()}
            for tag in (_tag_of(name) for name in names):
                if source.inspect_image(tag)["Id"] not in known:
                    say(f"copying {tag}")
                    own.load_image(source.get_image(tag), quiet=True)
            own.prune_images({"dangling": True})

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
        self._lock = (self.cache / f"{self._name}engine.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _made(self.state / "data")
        return _made(self.cache / f"{self._name}data")

    def _ensure_base(self, tarball: Path) -> str:
        tag = f"{BASE_REPOSITORY}:{base_key()}"
        with contextlib.closing(self.client()) as client:
            if not client.images(name=tag):
                say(f"importing {tag}")
                client.import_image_from_file(str(tarball), BASE_REPOSITORY, base_key())
        return tag

    def _ensure_image(self, name: str) -> Image:
        context = KERNELSPECS / name
        wanted = hash_of(
            self.base, str(self.wheels), *(content_of(path) for path in sorted(context.iterdir()))
        )
        tag = _tag_of(name)
        if (found := self._existing(tag, wanted)) is not None:
            return found
        say(f"building {tag}")
        with_wheels = (context / "requirements.txt").exists()
        work = build_image(
            name,
            context,
            tag=tag,
            build_args={"BASE_IMAGE": self.base, **(FROM_WHEELS if with_wheels else {})},
            wheels=self.wheels if with_wheels else None,
            url=self.url,
            on_line=lambda _: None,
            labels={HASH_LABEL: wanted},
        )
        # A thread of its own, because a test's event loop may be set up in this one.
        with ThreadPoolExecutor(1) as thread:
            image = thread.submit(asyncio.run, work).result()
        with contextlib.closing(self.client()) as client:
            client.prune_images({"dangling": True})
        return image

    def _existing(self, tag: str, wanted: str) -> Image | None:
        with contextlib.closing(self.client()) as client:
            for raw in client.images(name=tag, filters={"label": f"{HASH_LABEL}={wanted}"}):
                return image_of(raw["Labels"]["ai.backend.image.name"], tag, raw, raw["Labels"])
        return None


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


def _tag_of(name: str) -> str:
    return f"backendai-{name}:latest"


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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
