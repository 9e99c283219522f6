"""Run kernels as processes of this node, shut in as well as the node permits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from backendai_jupyter.agent.runtime import keeper
from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState, Inside, Origin
from backendai_jupyter.agent.runtime.bubblewrap import find_bubblewrap
from backendai_jupyter.agent.runtime.cgroups import Cgroups, find_cgroups
from backendai_jupyter.agent.runtime.hosts import LoopbackNetworks
from backendai_jupyter.agent.runtime.kept_kernel import KeptKernel
from backendai_jupyter.agent.runtime.kernel_dir import KILLED, KernelDir, remove_tree
from backendai_jupyter.agent.runtime.limits import (
    Limits,
    enter_command,
    limit_notes,
    thread_env,
)
from backendai_jupyter.agent.runtime.plain import PlainProcess
from backendai_jupyter.agent.runtime.sandbox import (
    USER_NAME,
    Sandbox,
    check,
    launch_script,
    python_env,
)
from backendai_jupyter.domain.wire import Image
from backendai_jupyter.errors import RuntimeFailed
from backendai_jupyter.points import reached

P = ParamSpec("P")
T = TypeVar("T")

NETWORKS = "networks"  # a file of each session that has one, beside the kernels' directories
PYTHON = "python"  # the one image, and as argv[0] the interpreter of that image
START_WITHIN_S = 60.0  # a network file system may be slow to be mounted from
END_WITHIN_S = 10.0  # after SIGKILL
SHOWN_OF_LOG_BYTES = 2000


class ProcessRuntime:
    """Kernels as sandboxed processes, each with a keeper that outlives this object.

    What exists is told by the directories below ``runtime_dir``; an object opened on the
    same directory later finds the kernels, their logs and how they ended.
    """

    name = "process"

    def __init__(self, runtime_dir: Path, *, cgroup_parent: str = "backendai") -> None:
        self._dir = runtime_dir.absolute()
        self.networks = LoopbackNetworks(self._dir / NETWORKS)
        self._cgroup_parent = cgroup_parent
        self._cgroups = Cgroups({}, version=2)
        self._sandbox: Sandbox = PlainProcess("the runtime is not open")
        self._kernels: dict[str, KeptKernel] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._exits: asyncio.Queue[str] = asyncio.Queue()

    async def open(self) -> None:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sandbox = await asyncio.to_thread(_find_sandbox, self._dir)
        self.networks.is_possible = self._sandbox.confined
        self._cgroups = await asyncio.to_thread(find_cgroups, self._cgroup_parent)
        for path in sorted(self._dir.iterdir()):
            if path.name == NETWORKS:
                continue
            directory = await asyncio.to_thread(KernelDir.read, path)
            if directory is None:  # its agent was killed before it started anything
                await asyncio.to_thread(remove_tree, path)
            else:
                self._kernels[directory.kernel_id] = await self._watch(directory)

    async def close(self) -> None:
        for kernel in self._kernels.values():
            kernel.unwatch()
        self._kernels.clear()
        await asyncio.to_thread(self._cgroups.close)

    async def images(self) -> tuple[Image, ...]:
        labels = {"ai.backend.runtime-type": "python", "ai.backend.runtime-path": sys.executable}
        return (Image(name=PYTHON, reference=sys.executable, runtime=self.name, labels=labels),)

    def inside(self, spec_run_dir: Path, spec_home_dir: Path) -> Inside:
        return self._sandbox.inside(spec_run_dir, spec_home_dir)

    def notes(self) -> tuple[str, ...]:
        return (*self._sandbox.notes, *limit_notes(self._cgroups.enforced))

    async def start(self, spec: ContainerSpec) -> ContainerState:
        check(spec)
        async with self._lock(spec.kernel_id):
            existing = self._kernels.get(spec.kernel_id)
            if existing is not None and existing.directory.generation == spec.generation:
                return await self._state(existing)
            if existing is not None:
                await self._remove(existing, grace_s=0.0)
            return await self._launch(spec)

    async def signal(self, kernel_id: str, signum: int) -> None:
        kernel = self._kernels.get(kernel_id)
        if kernel is not None and not kernel.ended.is_set():
            await asyncio.to_thread(kernel.directory.send, signum)

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        async with self._lock(kernel_id):
            kernel = self._kernels.get(kernel_id) or await self._left_over(kernel_id)
            if kernel is not None:
                await self._remove(kernel, grace_s=grace_s)

    async def list(self) -> list[ContainerState]:
        return [await self._state(kernel) for kernel in tuple(self._kernels.values())]

    async def pid(self, kernel_id: str) -> int | None:
        kernel = self._kernels.get(kernel_id)
        if kernel is None or not self._sandbox.confined:
            return None
        return await asyncio.to_thread(kernel.directory.sandbox_pid)

    async def origin(self, kernel_id: str) -> Origin | None:
        kernel = self._kernels.get(kernel_id)
        return None if kernel is None else await asyncio.to_thread(kernel.directory.origin)

    async def log_tail(self, kernel_id: str, *, max_bytes: int) -> str:
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return ""
        tail = await asyncio.to_thread(kernel.directory.log_tail, max_bytes)
        return tail.decode(errors="replace")

    async def exits(self) -> AsyncIterator[str]:
        while True:
            yield await self._exits.get()

    async def image_changes(self) -> AsyncIterator[None]:
        await asyncio.Event().wait()  # what this Python has installed stays the same
        yield

    def _lock(self, kernel_id: str) -> asyncio.Lock:
        return self._locks.setdefault(kernel_id, asyncio.Lock())

    async def _launch(self, spec: ContainerSpec) -> ContainerState:
        container_id = f"{spec.kernel_id}-{secrets.token_hex(4)}"
        path = self._dir / spec.kernel_id
        who = (spec.kernel_id, spec.generation, container_id)
        directory = KernelDir(path, *who, spec.devices.record, spec.session_id)
        try:
            script = launch_script(self._env(spec), **self._places(spec))
            await _uninterrupted(directory.create)
            await reached("agent.keeper.directory")
            if not await self._started(spec, directory, script):
                raise RuntimeFailed(await self._why_not(directory))
        except BaseException:
            await self._remove(await self._watch(directory), grace_s=0.0)
            raise
        kernel = self._kernels[spec.kernel_id] = await self._watch(directory)
        return await self._state(kernel)

    async def _started(self, spec: ContainerSpec, directory: KernelDir, script: str) -> bool:
        """Run the keeper; whether the program's launcher reached its last step."""
        reader, writer = os.pipe()
        try:
            try:
                await _uninterrupted(self._spawn, spec, directory, script, writer)
                await reached("agent.keeper.spawned")
            finally:
                os.close(writer)
            async with asyncio.timeout(START_WITHIN_S):
                await _readable(reader)
            return os.read(reader, 1) != b""
        except TimeoutError:
            return False
        finally:
            os.close(reader)

    def _spawn(self, spec: ContainerSpec, directory: KernelDir, script: str, started: int) -> None:
        """Start the keeper and return once it has left our process tree; blocks."""
        path, confined = directory.path, self._sandbox.confined
        limits = Limits.of(spec.limits)
        info = os.open(
            path / "sandbox.json" if confined else os.devnull,
            os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        stdin = os.memfd_create("launch")
        try:
            with open(stdin, "w", closefd=False) as file:
                file.write(script)
            os.lseek(stdin, 0, os.SEEK_SET)
            self._sandbox.prepare(spec, path, self.networks.addresses(spec))
            procs = self._cgroups.create(directory.container_id, limits)
            rlimit_memory = "memory" not in self._cgroups.enforced
            python = sys.executable if spec.argv[0] == PYTHON else spec.argv[0]
            words = (
                *(sys.executable, "-I", "-S", keeper.__file__, str(path), str(started), str(info)),
                "leave" if confined else "adopt",
                *enter_command(limits, procs, rlimit_memory=rlimit_memory),
                *self._sandbox.command(spec, path, info_fd=info),
                *("/bin/sh", "-s", python, *spec.argv[1:]),
            )
            with (path / "log").open("ab") as log:
                subprocess.run(
                    words,
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    pass_fds=(started, info),
                    env={},
                    start_new_session=True,
                    check=True,
                )
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeFailed(f"Kernel {spec.kernel_id} could not be started: {error}") from error
        finally:
            os.close(stdin)
            os.close(info)

    async def _why_not(self, directory: KernelDir) -> str:
        kernel = await self._watch(directory)
        try:
            async with asyncio.timeout(END_WITHIN_S):
                await kernel.ended.wait()
        except TimeoutError:
            kernel.unwatch()
            return (
                f"Kernel {directory.kernel_id} was not started within {START_WITHIN_S:.0f} s; "
                "look whether one of its folders lies on a file system that hangs."
            )
        tail = await asyncio.to_thread(directory.log_tail, SHOWN_OF_LOG_BYTES)
        said = tail.decode(errors="replace").strip() or "it said nothing"
        code = await asyncio.to_thread(directory.exit_code)
        return (
            f"Kernel {directory.kernel_id} could not be started: {said} (exit code {code})."
            f"{self._sandbox.explain(said)}"
        )

    async def _watch(self, directory: KernelDir) -> KeptKernel:
        keeper_fd = await asyncio.to_thread(directory.open_keeper)
        kernel = KeptKernel(directory, keeper_fd, self._exits.put_nowait)
        kernel.watch()
        return kernel

    async def _left_over(self, kernel_id: str) -> KeptKernel | None:
        """Return what a start has left that failed and could not be undone then."""
        directory = await asyncio.to_thread(KernelDir.read, self._dir / kernel_id)
        return None if directory is None else await self._watch(directory)

    async def _remove(self, kernel: KeptKernel, *, grace_s: float) -> None:
        """End a kernel and leave nothing of it."""
        directory = kernel.directory
        await self._end(kernel, grace_s)
        kernel.unwatch()
        await _uninterrupted(self._cgroups.remove, directory.container_id)
        await _uninterrupted(directory.remove)
        if self._kernels.get(directory.kernel_id) is kernel:
            del self._kernels[directory.kernel_id]

    async def _end(self, kernel: KeptKernel, grace_s: float) -> None:
        directory = kernel.directory
        if kernel.ended.is_set():
            return
        if grace_s > 0 and await asyncio.to_thread(directory.send, signal.SIGTERM):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await kernel.ended.wait()
        if kernel.ended.is_set():
            return
        await asyncio.to_thread(directory.kill_all)
        for last_resort in (kernel.kill_keeper, None):
            try:
                async with asyncio.timeout(END_WITHIN_S / 2):
                    await kernel.ended.wait()
            except TimeoutError:
                if last_resort is not None:
                    last_resort()
            else:
                return
        raise RuntimeFailed(
            f"Kernel {directory.kernel_id} is still there {END_WITHIN_S:.0f} s after SIGKILL; "
            "look whether a file system or device that it uses hangs."
        )

    async def _state(self, kernel: KeptKernel) -> ContainerState:
        directory = kernel.directory
        state = ContainerState(
            directory.kernel_id,
            directory.generation,
            directory.container_id,
            exit_code=None,
            devices=directory.devices,
            session_id=directory.session_id,
        )
        if not kernel.ended.is_set():
            return state
        code = await asyncio.to_thread(directory.exit_code)
        # A child of the program may have been killed for memory long before it ended itself.
        oom_killed = code == KILLED and await asyncio.to_thread(
            self._cgroups.oom_killed, directory.container_id
        )
        return replace(state, exit_code=code, oom_killed=oom_killed)

    def _places(self, spec: ContainerSpec) -> dict[str, str]:
        home = self._sandbox.inside(spec.run_dir, spec.home_dir).home
        return {"home": home, "workdir": self._sandbox.workdir(spec)}

    def _env(self, spec: ContainerSpec) -> dict[str, str]:
        user = USER_NAME if self._sandbox.confined else _user_name(spec.uid)
        own_bin = str(Path(sys.executable).parent)
        return {
            "HOME": self._places(spec)["home"],
            "USER": user,
            "LOGNAME": user,
            "PATH": f"{own_bin}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **python_env(),
            **thread_env(Limits.of(spec.limits)),
            **spec.env,
        }


def _find_sandbox(hidden: Path) -> Sandbox:
    try:
        return find_bubblewrap(hidden=hidden.resolve())
    except RuntimeFailed as why:
        return PlainProcess(str(why))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return USER_NAME


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _uninterrupted(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread; a cancellation waits for it, so that it can be undone."""
    call = partial(work, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
