"""The networks of sessions of several kernels, as a Docker Engine has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any, Protocol, TypeVar

from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from backendai_jupyter.agent.runtime.base import ContainerSpec
from backendai_jupyter.agent.runtime.docker_config import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    LABEL_SESSION,
    network_name,
)
from backendai_jupyter.agent.runtime.docker_engine import said
from backendai_jupyter.agent.runtime.docker_swarm import read_swarm
from backendai_jupyter.domain.wire import ClusterMode, Membership, Swarm
from backendai_jupyter.errors import RuntimeFailed
from backendai_jupyter.points import reached_in_thread

T = TypeVar("T")

BRIDGE, OVERLAY = "bridge", "overlay"
OPEN, CLOSED, SHARED = "bridge", "none", "host"  # networks that every engine has

_SMALLEST = 16  # addresses in a subnet
_NO_KERNELS = 3  # addresses in it that no kernel gets: the first, the last, the engine's own
_MTU = "com.docker.network.driver.mtu"
_IN_USE = ("has active endpoints", "is in use by")
_UNKNOWN = ("not found", "could not be found", "could not attach")
_JOINED = "already exists in network"
_TAKEN = "overlaps with other one"
_EXHAUSTED = "non-overlapping ipv4 address pool"
_NO_ROOM = (
    "This node has no addresses left for the network of another session of several kernels. "
    "Let some of them end, or see that there are more: set BackendAIAgent.session_subnets, or "
    "'default-address-pools' in the engine's daemon.json."
)

_NO_NETWORK = {
    ClusterMode.SINGLE_NODE: (
        "Kernels of one session cannot have names of their own here, because "
        "BackendAIAgent.docker_network is 'host'."
    ),
    ClusterMode.MULTI_NODE: (
        "The Docker Engine of this agent is in no swarm, so that its kernels can be on no overlay. "
        "Let it join one: docker swarm join."
    ),
}

Found = list[dict[str, Any]]


class Work(Protocol):
    """Does blocking work with the engine's client on a thread; ``doing`` is for errors."""

    async def __call__(self, doing: str, blocking: Callable[[Any], T]) -> T: ...


class DockerNetworks:
    """Bridges and overlays of one agent; see ``Networks`` and agent/networking.py."""

    def __init__(self, engine: EngineNetworks, work: Work) -> None:
        self._engine = engine
        self._work = work
        self._swarm: Swarm | None = None

    def learn(self, info: Mapping[str, Any]) -> None:
        """Take note of what the engine says of itself."""
        self._swarm = read_swarm(info, outside=self._engine.outside)

    def modes(self) -> tuple[ClusterMode, ...]:
        if self._engine.outside == SHARED:
            return ()
        return (ClusterMode.SINGLE_NODE, *((ClusterMode.MULTI_NODE,) if self._swarm else ()))

    async def open(self, session_id: str, membership: Membership) -> None:
        if membership.mode not in self.modes():
            raise RuntimeFailed(_NO_NETWORK[membership.mode])
        if membership.mode is ClusterMode.SINGLE_NODE:
            make, kernels = self._engine.make_bridge, len(membership.hosts)
            await self._work("make a network", lambda client: make(client, session_id, kernels))

    async def close(self, session_id: str) -> None:
        remove = self._engine.remove
        await self._work("remove a network", lambda client: remove(client, BRIDGE, session_id))

    async def sessions(self) -> set[str]:
        list_ = self._engine.sessions
        return await self._work("list its networks", lambda client: list_(client, BRIDGE))

    async def swarm(self) -> Swarm | None:
        self.learn(await self._work("say what it is part of", lambda client: client.info()))
        return self._swarm

    async def make_overlay(self, session_id: str) -> None:
        make = self._engine.make_overlay
        await self._work("make an overlay", lambda client: make(client, session_id))

    async def remove_overlay(self, session_id: str) -> bool:
        remove = self._engine.remove
        return await self._work(
            "remove an overlay", lambda client: remove(client, OVERLAY, session_id)
        )

    async def overlays(self) -> set[str]:
        list_ = self._engine.sessions
        return await self._work("list its overlays", lambda client: list_(client, OVERLAY))


class EngineNetworks:
    """Those of one agent, known by their labels; all calls block.

    ``outside`` is the network that kernels without siblings are on.  A session's is open to the
    outside where that is the engine's own bridge.  Else it is closed, and its kernels are on
    ``outside`` as well unless that is closed too.
    """

    def __init__(
        self, *, agent_id: str, cluster_id: str, outside: str, subnets: str, mtu: int
    ) -> None:
        self._labels = {LABEL_AGENT: agent_id, LABEL_CLUSTER: cluster_id}
        self.outside = outside
        self._subnets = IPv4Network(subnets) if subnets else None
        self._mtu = mtu

    def make_bridge(self, client: Any, session_id: str, kernels: int) -> None:
        """Make it unless it is there, with room for so many kernels."""
        if self._own(client, BRIDGE, session_id):
            return
        for ipam in self._pools(client, kernels + _NO_KERNELS):
            try:
                self._create(client, session_id, driver=BRIDGE, ipam=ipam)
            except APIError as error:
                if _TAKEN in said(error).lower():  # by another agent, just now
                    continue
                if _EXHAUSTED in said(error).lower():
                    break
                raise
            reached_in_thread("agent.bridge.made")
            self._keep_first(client, session_id)
            return
        raise RuntimeFailed(_NO_ROOM)

    def make_overlay(self, client: Any, session_id: str) -> None:
        """Make it unless it is there; one that another agent has left goes first."""
        if self._own(client, OVERLAY, session_id):
            return
        for found in _listed(client, OVERLAY, {LABEL_SESSION: session_id}):
            if not _removed(client, found["Id"]):
                raise RuntimeFailed("Kernels are still on the overlay that another agent has made.")
        options = {_MTU: str(self._mtu)}
        self._create(
            client, session_id, driver=OVERLAY, scope="swarm", attachable=True, options=options
        )

    def remove(self, client: Any, driver: str, session_id: str) -> bool:
        """Whether it is gone; it stays while something is attached."""
        own = self._own(client, driver, session_id)
        gone = [_removed(client, found["Id"]) for found in own]
        return all(gone)

    def sessions(self, client: Any, driver: str) -> set[str]:
        """Return those that have a network of this agent's."""
        return {found["Labels"][LABEL_SESSION] for found in _listed(client, driver, self._labels)}

    def _keep_first(self, client: Any, session_id: str) -> None:
        """Remove what came second: an engine can make two of one name at the same time."""
        own = self._own(client, BRIDGE, session_id)
        for found in sorted(own, key=lambda found: (found["Created"], found["Id"]))[1:]:
            _removed(client, found["Id"])

    def join_beside(self, client: Any, container_id: str, spec: ContainerSpec) -> None:
        """Put a kernel that runs on a network of its session on ``outside``, too; idempotent.

        Only now: its own name must stand for its address on the first one.
        """
        if spec.membership is None or self.outside in (OPEN, CLOSED):
            return
        try:
            client.connect_container_to_network(container_id, self.outside)
        except APIError as error:
            if _JOINED not in said(error):
                raise

    def _create(self, client: Any, session_id: str, **how: Any) -> None:
        name = network_name(session_id)
        labels = {**self._labels, LABEL_SESSION: session_id}
        try:
            client.create_network(
                name, labels=labels, internal=self.outside != OPEN, check_duplicate=True, **how
            )
        except APIError as error:
            if error.status_code != 409:
                raise
            if not self._own(client, how["driver"], session_id):
                raise RuntimeFailed(
                    f"There is a network {name} already, which is not this agent's. Remove it: "
                    f"docker network rm {name}"
                ) from error

    def _own(self, client: Any, driver: str, session_id: str) -> Found:
        return _listed(client, driver, {**self._labels, LABEL_SESSION: session_id})

    def _pools(self, client: Any, addresses: int) -> Iterator[IPAMConfig | None]:
        """Yield subnets that are free by now; None: let the engine choose."""
        if self._subnets is None:
            yield None
            return
        size = max(_SMALLEST, 1 << (addresses - 1).bit_length())
        taken = [
            IPv4Network(config["Subnet"])
            for network in client.networks()
            for config in network["IPAM"]["Config"] or ()
            if ":" not in config.get("Subnet", ":")
        ]
        if size <= self._subnets.num_addresses:
            for subnet in self._subnets.subnets(new_prefix=33 - size.bit_length()):
                if not any(subnet.overlaps(other) for other in taken):
                    yield IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))])


def lacks_network(problem: str) -> bool:
    """Whether a start has failed for this because the engine does not know its network."""
    words = problem.lower()
    return "network" in words and any(sign in words for sign in _UNKNOWN)


def _listed(client: Any, driver: str, labels: Mapping[str, str]) -> Found:
    filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
    return [found for found in client.networks(filters=filters) if found["Driver"] == driver]


def _removed(client: Any, network_id: str) -> bool:
    try:
        client.remove_network(network_id)
    except NotFound:
        return True
    except APIError as error:
        if not any(sign in said(error) for sign in _IN_USE):
            raise
        return False
    return True
