"""A cluster on this machine: private stores, agents as processes, Jupyter Servers over them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

import psutil

from backendai_jupyter.store.migrate import upgrade
from tests.helpers import eventually
from tests.postgres import PrivatePostgres
from tests.server import RunningServer, private_directories
from tests.services import EtcdServer, RedisServer

READY = "is ready"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0


class AgentProcess:
    """``backendai-agent`` as a process; started again it has the same node and kernels."""

    def __init__(self, root: Path, name: str, traits: Mapping[str, object]) -> None:
        self.name = name
        self.root = root
        self.log_path = root / "agent.log"
        root.mkdir(parents=True)
        lines = [f"c.BackendAIAgent.{trait} = {value!r}\n" for trait, value in traits.items()]
        self.module = "backendai_jupyter.cli.daemon"
        self.env = {**os.environ, **private_directories(root)}
        self._config = root / "backendai_agent_config.py"
        self._config.write_text("".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def start(self) -> None:
        """Return when it takes orders; fails with its log if it never does."""
        said = self.log.count(READY)
        self._process = process = self._launch()
        await eventually(
            lambda: self.log.count(READY) > said or process.poll() is not None,
            within_s=START_WITHIN_S,
        )
        assert process.poll() is None, f"the agent did not start:\n{self.log}"

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", self.module, f"--config={self._config}"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=log, stderr=log)

    def signal(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    async def wait(self) -> int:
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None, within_s=STOP_WITHIN_S)
        return process.wait()

    async def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            await self.wait()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait()


class Cluster:
    """Use it as ``async with``; whoever was added ends with it, and all that it left.

    ``secret`` and ``vfroot`` are the same for all, as on nodes with shared storage.
    """

    def __init__(self, *, agent_lost_s: float = 60.0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bjc-"))
        self.root.chmod(0o755)  # kernels of agents run as another user
        self.etcd = EtcdServer(self.root / "etcd")
        self.redis = RedisServer(self.root / "redis")
        self.secret = self.root / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(secrets.token_hex(32))
        self.vfroot = self.root / "vfroot"
        self.postgres = PrivatePostgres()
        self.agents: list[AgentProcess] = []
        self.servers: list[RunningServer] = []
        self._agent_lost_s = agent_lost_s
        self._token = secrets.token_hex(16)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Cluster:
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self._stack.callback(self._kill_what_is_left)
        for service in (self.etcd, self.redis):
            self._stack.callback(service.kill)
        self._stack.callback(self.postgres.remove)
        await asyncio.to_thread(self.postgres.make)
        await asyncio.gather(self.etcd.up(), self.redis.up(), self.postgres.start())
        await upgrade(self.postgres.url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._end_kernels()
        finally:
            await self._stack.aclose()

    async def add_agent(self, **traits: object) -> AgentProcess:
        number = len(self.agents) + 1
        root = self.root / f"a{number}"
        agent = AgentProcess(
            root,
            f"agent-{number}",
            {
                **self._stores(),
                "agent_id": f"agent-{number}",
                "state_dir": str(root / "state"),
                "runtime_dir": str(root / "run"),
                "vfolder_hosts": {"local": str(self.vfroot)},
                "runtime": "process",
                "heartbeat_s": 1.0,
                **traits,
            },
        )
        self.agents.append(agent)
        self._stack.push_async_callback(agent.stop)
        await agent.start()
        return agent

    async def add_server(
        self,
        *,
        args: Sequence[str] = (),
        config: str = "",
        module: str = "jupyter_server",
        **traits: object,
    ) -> RunningServer:
        """``config`` is what the server's own one begins with."""
        number = len(self.servers) + 1
        settings = {
            **self._stores(),
            "database_url": self.postgres.url,
            "vfolder_hosts": {"local": str(self.vfroot)},
            "agent_lost_s": self._agent_lost_s,
            **traits,
        }
        server = RunningServer(
            self.root / f"m{number}",
            args=args,
            config=config
            + "".join(f"c.BackendAI.{name} = {value!r}\n" for name, value in settings.items()),
            module=module,
            kernels_outlive=True,
        )
        server.root.mkdir(exist_ok=True)
        server.token = self._token
        self.servers.append(server)
        self._stack.push_async_callback(server.close)
        await server.start()
        return server

    def _stores(self) -> dict[str, object]:
        return {
            "etcd_url": self.etcd.url(),
            "redis_url": self.redis.url(),
            "cluster_secret_file": str(self.secret),
        }

    def _kill_what_is_left(self) -> None:
        """End the kernels and relays that a test which failed has left to agents that are gone."""
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.root) in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    async def _end_kernels(self) -> None:
        """End what runs, as its owner would."""
        for server in [server for server in self.servers if server.url][:1]:
            answer = await server.get("api/kernels")
            for kernel in answer.json():
                await server.delete(f"api/kernels/{kernel['id']}")
