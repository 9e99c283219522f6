"""A process runtime for tests: specs of its kernels, what they say, and what is left of them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from backendai_jupyter.agent.node import kernel_identity
from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image
from tests.helpers import eventually

MIB = 1024 * 1024
FOREVER = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(60)\n"
# Leaves its process group, session and parent behind, as a daemon does.
DAEMON = """\
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('daemon', flush=True)
        os.execvp('sleep', ['sleep', '{seconds}'])
    os._exit(0)
os.wait()
"""


@dataclass
class Rig:
    """One agent's runtime; ``root`` is where its kernels' directories are."""

    root: Path
    python: str = "python"
    runtime: ProcessRuntime = field(init=False)

    def __post_init__(self) -> None:
        self.root.chmod(0o755)
        self.runtime = ProcessRuntime(self.runtime_dir)

    @property
    def runtime_dir(self) -> Path:
        return self.root / "runtime"

    def spec(self, code: str, **changes: object) -> ContainerSpec:
        """Return a spec of a new kernel that runs ``code`` in Python."""
        kernel_id = str(uuid4())
        uid, gid = kernel_identity(23456)
        spec = ContainerSpec(
            kernel_id=kernel_id,
            session_id="s",
            generation=1,
            image=Image(name="python", reference="", runtime="process"),
            argv=(self.python, "-u", "-c", code),
            env={},
            limits=Slots({"cpu": 1, "mem": 256 * MIB}),
            mounts=(),
            workdir="/home/work",
            run_dir=self.folder(f"run-{kernel_id[:8]}"),
            home_dir=self.folder(f"home-{kernel_id[:8]}"),
            uid=uid,
            gid=gid,
            hostname="main1",
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(path, *kernel_identity(23456))
        return path

    async def restart_agent(self) -> None:
        await self.runtime.close()
        self.runtime = ProcessRuntime(self.runtime_dir)
        await self.runtime.open()

    async def ended(self, spec: ContainerSpec) -> ContainerState:
        """Wait until the program has ended and return its state."""

        async def probe() -> bool:
            return (await self.state(spec)).exit_code is not None

        await eventually(probe)
        return await self.state(spec)

    async def state(self, spec: ContainerSpec) -> ContainerState:
        (state,) = [s for s in await self.runtime.list() if s.kernel_id == spec.kernel_id]
        return state

    async def log(self, spec: ContainerSpec) -> str:
        return await self.runtime.log_tail(spec.kernel_id, max_bytes=100_000)

    async def says(self, spec: ContainerSpec, text: str) -> None:
        """Wait until the program has printed ``text``."""

        async def probe() -> bool:
            return text in await self.log(spec)

        await eventually(probe)

    async def output(self, code: str, **changes: object) -> str:
        """Run ``code`` as a kernel to its end and return what it printed."""
        spec = self.spec(code, **changes)
        await self.runtime.start(spec)
        await self.ended(spec)
        said = await self.log(spec)
        await self.runtime.stop(spec.kernel_id, grace_s=0)
        return said


def command_lines() -> list[str]:
    """Return the command line of every process of this machine."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            found.append((proc / "cmdline").read_text(errors="replace").replace("\0", " "))
    return found


def cgroups_of(container_id: str) -> list[Path]:
    return [
        path
        for pattern in (f"backendai/{container_id}", f"*/backendai/{container_id}")
        for path in Path("/sys/fs/cgroup").glob(pattern)
    ]
