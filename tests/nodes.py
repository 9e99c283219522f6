"""Several machines on this one: each a network and mounts of its own, with a Docker engine.

Stores and managers stay outside, on the address of a bridge that all machines are plugged into.
Nothing of a machine outlives the process that holds it, however the tests end, but for the
bridge, which the next run with its number takes away.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from backendai_jupyter.agent.runtime.docker_config import LABEL_KERNEL
from tests.cluster import AgentProcess, Cluster
from tests.engine import PrivateEngine
from tests.engine_materials import find_command, run_command
from tests.helpers import eventually
from tests.server import RunningServer

IMAGES = ("python",)
LIVE_RESTORE = ("--live-restore",)
_NUMBERS = range(1, 250)  # of networks that runs on this machine may have at once
SWARM_PORT = 2377
_STATE_MB = 64
MAX_MACHINES = 4


class Network:
    """A bridge with a subnet that no other run of the tests has."""

    def __init__(self) -> None:
        self._claim, self.number = _claim_number()
        self.name = f"bjn{self.number}"
        self.address = f"10.214.{self.number}.1"

    def open(self) -> None:
        self._remove()
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def close(self) -> None:
        self._remove()
        self._claim.close()

    def plug(self, number: int) -> str:
        """Return the name of our end of a machine's cable."""
        return f"{self.name}m{number}"

    def _remove(self) -> None:
        """Take away what is there, also of a run that was killed."""
        for name in (self.name, *(self.plug(number) for number in range(1, MAX_MACHINES + 1))):
            _remove_link(name)


class Machine:
    """Namespaces that a process holds; ``enter`` runs a command in them.

    ``private`` are directories that only this machine sees, on disks of its own.
    """

    def __init__(self, network: Network, number: int, private: Path) -> None:
        self.address = f"10.214.{network.number}.{number + 1}"
        self.private = private
        self._network = network
        self._plug = network.plug(number)
        self._holder: subprocess.Popen[bytes] | None = None

    @property
    def enter(self) -> tuple[str, ...]:
        assert self._holder is not None
        return ("nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--wd=/", "--")

    @property
    def run_dir(self) -> Path:
        return self.private / "run"

    @property
    def state_dir(self) -> Path:
        return self.private / "state"

    def seen(self, path: Path) -> Path:
        """Return where this process sees a path of the machine."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    async def start(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount"]
        self._holder = holder = subprocess.Popen(  # noqa: ASYNC220 - it waits for nothing
            [*command, "sleep", "infinity"]
        )
        # The last program that it becomes has the namespaces already.
        await eventually(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n")
        for path in (self.run_dir, self.state_dir):
            path.mkdir(parents=True, mode=0o711)
            options = f"size={_STATE_MB}m,mode=711"
            run_command([*self.enter, "mount", "-t", "tmpfs", "-o", options, "none", str(path)])
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("link", "add", self._plug, *peer)
        _ip("link", "set", self._plug, "master", self._network.name, "up")
        inside = [*self.enter, find_command("ip")]
        run_command([*inside, "addr", "add", f"{self.address}/24", "dev", "eth0"])
        for link in ("lo", "eth0"):
            run_command([*inside, "link", "set", link, "up"])

    def cut(self) -> None:
        """Pull the cable: nothing comes through, and nobody is told."""
        _ip("link", "set", self._plug, "down")

    def join(self) -> None:
        _ip("link", "set", self._plug, "up")

    def stop(self) -> None:
        if self._holder is not None:
            _remove_link(self._plug)
            self._holder.kill()
            self._holder.wait()

    def mounts(self) -> Iterator[str]:
        """Return what is mounted here of directories that are the machine's own."""
        assert self._holder is not None
        for line in Path(f"/proc/{self._holder.pid}/mountinfo").read_text().splitlines():
            if str(self.private) in line:
                yield line


class Node:
    """A machine with its engine and, once it is added, its agent."""

    def __init__(self, machine: Machine, engine: PrivateEngine) -> None:
        self.machine = machine
        self.engine = engine
        self.agent: AgentProcess

    @property
    def name(self) -> str:
        return self.agent.name

    def containers(self) -> list[dict[str, str]]:
        """Return what the engine has of kernels."""
        with self.engine.client() as client:
            found: list[dict[str, str]] = client.containers(
                all=True, filters={"label": LABEL_KERNEL}
            )
            return found


class Nodes:
    """A cluster of two such nodes and as many managers as are wanted; use it as ``async with``.

    Containers of the first node go on without their engine, those of the second do not.  With
    ``swarm`` neither's do: the engines are one, which the first manages.
    """

    def __init__(
        self,
        *,
        managers: int = 2,
        agent_lost_s: float,
        swarm: bool = False,
        env: Mapping[str, str] | None = None,
        **traits: object,
    ) -> None:
        """``env`` and ``traits`` are those of the agents."""
        self.network = Network()
        self.cluster = Cluster(agent_lost_s=agent_lost_s, host=self.network.address)
        self.nodes: list[Node] = []
        self._managers = managers
        self._has_swarm = swarm
        self._env = env
        self._traits = traits

    @property
    def servers(self) -> list[RunningServer]:
        return self.cluster.servers

    async def __aenter__(self) -> Nodes:
        try:
            self.network.open()
            await self.cluster.__aenter__()
            for options in ((), ()) if self._has_swarm else (LIVE_RESTORE, ()):
                await self._add_node(options)
            for _ in range(self._managers):
                await self.cluster.add_server()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for node in self.nodes:
                node.machine.join()
            await self.cluster.__aexit__(kind, error, trace)
        finally:
            for node in self.nodes:
                node.engine.stop()
                node.machine.stop()
            self.network.close()

    async def _add_node(self, options: tuple[str, ...]) -> None:
        number = len(self.nodes) + 1
        machine = Machine(self.network, number, self.cluster.root / f"n{number}")
        await machine.start()
        engine = PrivateEngine(name=f"node{number}", enter=machine.enter, options=options)
        node = Node(machine, engine)
        self.nodes.append(node)
        engine.start()
        if number == 1:
            engine.ensure_images(IMAGES)
        else:
            engine.copy_images(self.nodes[0].engine, IMAGES)
        if self._has_swarm:
            self._join_swarm(node)
        node.agent = await self.cluster.add_agent(
            enter=machine.enter,
            runtime="docker",
            docker_url=engine.url,
            relay_bind=machine.address,
            state_dir=str(machine.state_dir),
            runtime_dir=str(machine.run_dir / "agent"),
            env=self._env,
            **self._traits,
        )

    def _join_swarm(self, node: Node) -> None:
        own, first = node.machine.address, self.nodes[0]
        where = {"advertise_addr": own, "listen_addr": f"{own}:{SWARM_PORT}"}
        with node.engine.client() as client:
            if node is first:
                client.init_swarm(**where, data_path_addr=own)
                return
            with first.engine.client() as manager:
                token = manager.inspect_swarm()["JoinTokens"]["Worker"]
            managers = [f"{first.machine.address}:{SWARM_PORT}"]
            client.join_swarm(managers, token, **where, data_path_addr=own)


def _claim_number() -> tuple[socket.socket, int]:
    """Return a number that is ours for as long as the socket is open."""
    for number in _NUMBERS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0backendai-tests-network-{number}")
        except OSError:
            claim.close()
        else:
            return claim, number
    raise AssertionError("every network of the tests is in use")


def _remove_link(name: str) -> None:
    delete = [find_command("ip"), "link", "del", name]
    subprocess.run(delete, capture_output=True, check=False)


def _ip(*words: str) -> None:
    run_command([find_command("ip"), *words])
