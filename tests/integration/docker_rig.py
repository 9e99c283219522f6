"""A Docker runtime on the private engine, and specs for it; what the Docker tests share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.wire import Image
from tests.engine import PrivateEngine
from tests.helpers import eventually

UID = 1000


@dataclass
class DockerRig:
    """A runtime with an agent id of its own, so that tests do not see each other's kernels."""

    WAIT: ClassVar[str] = "import time\nwhile True: time.sleep(60)"

    engine: PrivateEngine
    runtime: DockerRuntime
    images: dict[str, Image]
    root: Path

    def spec(
        self, code: str, *, memory_mib: int = 256, cpu: str = "1", **changes: Any
    ) -> ContainerSpec:
        """Return a spec of a new kernel that runs ``code`` in Python."""
        kernel_id = str(uuid4())
        spec = ContainerSpec(
            kernel_id=kernel_id,
            session_id=str(uuid4()),
            generation=1,
            image=self.images["python"],
            argv=("python", "-c", code),
            env={},
            limits=Slots.parse({"cpu": cpu, "mem": f"{memory_mib}m"}),
            mounts=(),
            workdir="/home/work",
            run_dir=self.folder(f"r-{kernel_id[:8]}"),
            home_dir=self.folder(f"h-{kernel_id[:8]}"),
            uid=UID,
            gid=UID,
            hostname="main1",
        )
        return replace(spec, **changes)

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        os.chown(path, UID, UID)
        return path

    async def ended(self, spec: ContainerSpec) -> ContainerState:
        """Wait until the program has ended and return its state."""

        async def probe() -> list[ContainerState]:
            states = await self.runtime.list()
            return [s for s in states if s.kernel_id == spec.kernel_id and s.exit_code is not None]

        return (await eventually(probe, within_s=20.0))[0]

    async def output(self, spec: ContainerSpec) -> str:
        """Wait until the program has ended and return what it printed."""
        await self.ended(spec)
        return await self.runtime.log_tail(spec.kernel_id, max_bytes=100_000)

    async def says(self, spec: ContainerSpec, text: str) -> None:
        """Wait until the program has printed ``text``."""

        async def probe() -> bool:
            return text in await self.runtime.log_tail(spec.kernel_id, max_bytes=10_000)

        await eventually(probe, within_s=20.0)

    def inspect(self, container_id: str) -> dict[str, Any]:
        """Return what the engine itself says of a container."""
        with contextlib.closing(self.engine.client()) as client:
            found: dict[str, Any] = client.inspect_container(container_id)
            return found

    def container_names(self) -> set[str]:
        """Return the names of all containers of the engine, whosever they are."""
        with contextlib.closing(self.engine.client()) as client:
            return {name.lstrip("/") for c in client.containers(all=True) for name in c["Names"]}


@contextlib.asynccontextmanager
async def new_rig(
    engine: PrivateEngine, root: Path, *, url: str | None = None, **options: Any
) -> AsyncIterator[DockerRig]:
    """Open a runtime; at the end nothing of it is left."""
    identity = {"agent_id": str(uuid4()), "cluster_id": "tests", **options}
    runtime = DockerRuntime(url=url or engine.url, **identity)
    await runtime.open()
    try:
        images = {image.name: image for image in reversed(await runtime.images())}
        yield DockerRig(engine, runtime, images, root)
        for state in await runtime.list():
            await runtime.stop(state.kernel_id, grace_s=0)
    finally:
        await runtime.close()


@pytest.fixture
async def rig(engine: PrivateEngine, short_tmp_path: Path) -> AsyncIterator[DockerRig]:
    async with new_rig(engine, short_tmp_path) as opened:
        yield opened


@pytest.fixture
async def offline_rig(engine: PrivateEngine, short_tmp_path: Path) -> AsyncIterator[DockerRig]:
    """The same, with kernels that are on no network."""
    async with new_rig(engine, short_tmp_path, network="none") as opened:
        yield opened
