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

from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.store.migrate import upgrade
from tests.helpers import eventually
from tests.postgres import PrivatePostgres
from tests.server import RunningServer, private_directories
from tests.services import LOOPBACK, EtcdServer, RedisServer, three_members, url_of

_PREFIX = "bjc-"
READY = "is ready"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
END_WITHIN_S = 60.0


class AgentProcess:
    """``backendai-agent`` as a process; started again it has the same node and kernels."""

    def __init__(
        self,
        root: Path,
        name: str,
        traits: Mapping[str, object],
        *,
        enter: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """``enter`` is a command that runs another one on the agent's own machine."""
        self.name = name
        self._enter = enter
        self.root = root
        self.log_path = root / "agent.log"
        root.mkdir(parents=True)
        lines = [f"c.BackendAIAgent.{trait} = {value!r}\n" for trait, value in traits.items()]
        self.module = "backendai_jupyter.cli.daemon"
        self.env = {**os.environ, **private_directories(root), **(env or {})}
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
        command = [*self._enter, sys.executable, "-m", self.module, f"--config={self._config}"]
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

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> None:
        if self.is_running:
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

    def __init__(
        self,
        *,
        agent_lost_s: float = 60.0,
        host: str = LOOPBACK,
        etcd_members: int = 1,
        postgres: PrivatePostgres | None = None,
    ) -> None:
        """Stores that agents use too listen on ``host``."""
        self.root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.root.chmod(0o755)  # kernels of agents run as another user
        where = self.root / "etcd"
        self.members = (
            [EtcdServer(where, host=host)] if etcd_members == 1 else three_members(where, host=host)
        )
        self.redis = RedisServer(self.root / "redis", host=host)
        self.secret = self.root / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(secrets.token_hex(32))
        self.vfroot = self.root / "vfroot"
        self.postgres = postgres or PrivatePostgres()
        self.agents: list[AgentProcess] = []
        self.servers: list[RunningServer] = []
        self._agent_lost_s = agent_lost_s
        self._token = secrets.token_hex(16)
        self._stack = AsyncExitStack()

    @property
    def etcd(self) -> EtcdServer:
        """The first member, by default the only one."""
        return self.members[0]

    async def __aenter__(self) -> Cluster:
        clear_up_after_killed_runs()
        self._stack.callback(_clear_up, self.root)
        for service in (*self.members, self.redis):
            self._stack.callback(service.kill)
        self._stack.callback(self.postgres.remove)
        await asyncio.to_thread(self.postgres.make)
        for member in self.members:
            member.start()  # each waits for another one
        ups = [service.up() for service in (*self.members, self.redis)]
        await asyncio.gather(*ups, self.postgres.start())
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

    async def add_agent(
        self,
        *,
        enter: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **traits: object,
    ) -> AgentProcess:
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
            enter=enter,
            env=env,
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
        env: Mapping[str, str] | None = None,
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
            env=env,
        )
        server.root.mkdir(exist_ok=True)
        server.token = self._token
        self.servers.append(server)
        self._stack.push_async_callback(server.close)
        await server.start()
        return server

    def _stores(self) -> dict[str, object]:
        return {
            "etcd_url": url_of(self.members),
            "redis_url": self.redis.url(),
            "cluster_secret_file": str(self.secret),
        }

    async def _end_kernels(self) -> None:
        """End what runs, as its owner would, and wait until the agents have done so.

        An agent that is stopped meanwhile leaves what it has not ended yet.
        """
        if any(server.is_running for server in self.servers):
            await eventually(self._have_ended, within_s=END_WITHIN_S)

    async def _have_ended(self) -> bool:
        """Ask any server that can do it: one that is cut off from a store cannot."""
        agents = {agent.name for agent in self.agents if agent.is_running}
        for server in [server for server in self.servers if server.is_running]:
            answer = await server.get("backendai/v1/sessions")
            if not answer.is_success:
                continue
            live = [session for session in answer.json() if session["status"] not in FINAL]
            for session in live:
                await server.delete(f"backendai/v1/sessions/{session['id']}")
            return not any(one["kernels"][0]["agent_id"] in agents for one in live)
        return False


def clear_up_after_killed_runs() -> None:
    """End what runs of the tests that were killed have left."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = root.name.removeprefix(_PREFIX).split("-")[0]
        if not Path("/proc", owner).exists():
            _clear_up(root)


def _clear_up(root: Path) -> None:
    """End the kernels and relays that a test which failed has left to agents that are gone."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = [*(process.info["cmdline"] or ()), process.environ().get("IPYTHONDIR", "")]
            if any(str(root) in word for word in words):
                process.kill()
    shutil.rmtree(root, ignore_errors=True)
