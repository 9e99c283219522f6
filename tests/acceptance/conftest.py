"""Fixtures of the acceptance tests: settings for each runtime, kernels started by stock clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.provisioning.backends import BACKENDS
from tests.engine import PrivateEngine

RUNTIMES = [
    pytest.param("process", id="process"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=RUNTIMES)
def runtime_config(request: pytest.FixtureRequest) -> Config:
    """Settings that make the agent use one runtime."""
    config = Config()
    config.BackendAIAgent.runtime = request.param
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        config.BackendAIAgent.docker_url = engine.url
    return config


@pytest.fixture(params=RUNTIMES)
def server_config(request: pytest.FixtureRequest) -> str:
    """The same for a server, as lines of its config file."""
    lines = [f"c.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    return "\n".join([*lines, ""])


@pytest.fixture
def settings_file(request: pytest.FixtureRequest, short_tmp_path: Path, _own_home: None) -> Path:
    """The same as a config file, for tools that start kernels by name; give it a runtime."""
    lines = [f"c = get_config()\nc.BackendAIAgent.runtime = {request.param!r}"]
    if request.param == "docker":
        engine: PrivateEngine = request.getfixturevalue("engine")
        lines.append(f"c.BackendAIAgent.docker_url = {engine.url!r}")
    path = short_tmp_path / "config" / "jupyter_server_config.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines))
    return path


class RunningKernel:
    """A kernel started through our provisioner by the stock manager, with a stock client."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager = manager
        self.client = client

    @property
    def backend(self) -> Backend:
        """The backend that this process embeds while the kernel lives."""
        return BACKENDS.backend

    async def first_folder(self) -> Path:
        """Return the host directory of the owner's first virtual folder."""
        manager = self.backend.manager
        return Path((await self.backend.call(manager.vfolders.list(manager.viewer)))[0].path)

    async def run(self, code: str, *, timeout_s: float = 30, **kwargs: Any) -> dict[str, Any]:
        """Execute ``code``; return the reply's content, with what it printed as ``stdout``."""
        printed: list[str] = []

        def listen(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await self.client.execute_interactive(
            code, timeout=timeout_s, output_hook=listen, allow_stdin=False, **kwargs
        )
        return {**reply["content"], "stdout": "".join(printed)}

    async def ask_control(self, msg_type: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send a request on the control channel and return its reply's content."""
        message = self.client.session.msg(msg_type, content)
        self.client.control_channel.send(message)
        while True:
            reply = await self.client.get_control_msg(timeout=20)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return dict(reply["content"])


Start = Callable[..., Awaitable[RunningKernel]]


@pytest.fixture
async def start_kernel(runtime_config: Config) -> AsyncIterator[Start]:
    """Start kernels that end with the test."""
    started: list[RunningKernel] = []

    async def start(**kwargs: Any) -> RunningKernel:
        manager = AsyncKernelManager(kernel_name="backendai-python", config=runtime_config)
        await manager.start_kernel(**kwargs)
        client = manager.client()
        client.start_channels()
        kernel = RunningKernel(manager, client)
        started.append(kernel)
        await client.wait_for_ready(timeout=30)
        return kernel

    yield start
    for kernel in started:
        kernel.client.stop_channels()
        await kernel.manager.shutdown_kernel(now=True)
