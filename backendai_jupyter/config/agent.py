"""``c.BackendAIAgent...``: the settings of agents."""

from __future__ import annotations

import platform
import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Dict, Enum, Float, Int, List, TraitError, Unicode, default, validate

from backendai_jupyter.config.checks import all_or_none, checked_for_sockets, short_directory
from backendai_jupyter.config.devices import read_devices
from backendai_jupyter.config.registries import ImageSettings
from backendai_jupyter.domain.devices import Device
from backendai_jupyter.domain.resources import parse_size
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.storage.hosts import VFolderHost, read_hosts

MIN_JOURNAL_BYTES = 1 << 20
LARGEST_PREFIX = 28  # of the subnet of a session
NODE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BackendAIAgent(ImageSettings):
    """The settings of the agent on this node."""

    agent_id = Unicode(
        help="""Name of this node in its cluster; every node has another.  Default: its host
        name.""",
    ).tag(config=True)

    resource_group = Unicode(
        "default",
        help="""Name of the resource group that this node belongs to.  Only sessions that ask for
        this group run there, and its agents share settings that others do not have.""",
    ).tag(config=True)

    etcd_url = Unicode(
        help="""Address of etcd, as ``BackendAI.etcd_url``; for ``backendai-agent`` only.""",
    ).tag(config=True)

    redis_url = Unicode(
        help="""Address of Redis, as ``BackendAI.redis_url``; for ``backendai-agent`` only.""",
    ).tag(config=True)

    cluster_secret_file = Unicode(
        help="""File with the secret of the cluster, as ``BackendAI.cluster_secret_file``; for
        ``backendai-agent`` only.""",
    ).tag(config=True)

    state_dir = Unicode(
        help="""Directory of what ``backendai-agent`` keeps of its kernels: their home
        directories, their output, and how far each has come.  Default: ``backendai-agent`` in
        the Jupyter data directory.""",
    ).tag(config=True)

    runtime_dir = Unicode(
        help="""Directory for the sockets of ``backendai-agent``, as ``BackendAI.runtime_dir``.""",
    ).tag(config=True)

    vfolder_hosts = Dict(
        Unicode(),
        help="""The vfolder hosts that this node has mounted, as ``BackendAI.vfolder_hosts``.  A
        kernel that needs another one is not placed here.  Default: those of the manager, where
        both run in one process.""",
    ).tag(config=True)

    runtime = Enum(
        ["auto", "docker", "process"],
        default_value="auto",
        help="""What runs kernels.  ``docker``: containers only.  ``process``: sandboxed
        processes only.  ``auto``: a container where there is an engine with the image, else a
        sandboxed process.""",
    ).tag(config=True)

    docker_url = Unicode(
        help="""Address of the Docker engine.  Default: ``DOCKER_HOST``, else the engine's
        standard socket.""",
    ).tag(config=True)

    docker_network = Unicode(
        "bridge",
        help="""Network of containers: ``bridge``, ``none`` or the name of a Docker network.
        Channels need no network, so ``none`` gives working kernels that reach nothing.  Kernels of
        a session of several are on a network of their session instead, which is open to the
        outside for ``bridge`` and closed for ``none``; any other is joined beside it.""",
    ).tag(config=True)

    session_subnets = Unicode(
        help="""Addresses for the bridges of sessions of several kernels on this node, e.g.
        ``10.201.0.0/16``, which nothing else may use.  Each takes 16 of them, or more if it has
        more than 13 kernels.  Default: those of the engine, which has enough for about 30
        bridges unless ``default-address-pools`` in its ``daemon.json`` says otherwise.""",
    ).tag(config=True)

    overlay_mtu = Int(
        1500,
        min=576,
        max=65535,
        help="""Largest packet, in bytes, that the network between the nodes of a swarm carries.
        Overlays of sessions on several nodes carry 50 less.  Used where this agent makes them.""",
    ).tag(config=True)

    relay_bind = Unicode(
        "127.0.0.1",
        help="""Address of this node on which its kernels' channels and journals listen, e.g.
        ``0.0.0.0`` for all that it has.""",
    ).tag(config=True)

    relay_host = Unicode(
        help="""Address that managers use to reach this node, where it is not the one that it
        binds, e.g. behind NAT.  Default: ``relay_bind``, or if that is a wildcard, the address
        from which this node reaches others.""",
    ).tag(config=True)

    cpu_overcommit = Float(
        8.0,
        min=0.01,
        max=1000.0,
        help="""How many ``cpu`` slots a processor core offers.  Notebooks idle most of the
        time; larger lets more kernels in, smaller gives each one more certainty.""",
    ).tag(config=True, shared=True)

    mem_reserve = Unicode(
        "1g",
        help="""Memory of the node that is not offered to kernels, e.g. ``2g``.""",
    ).tag(config=True, shared=True)

    journal_size = Unicode(
        "256m",
        help="""Disk space for the output of one kernel that nobody has read yet, at least
        ``1m``.  When it is full the oldest output goes, and a line in the output says so.""",
    ).tag(config=True, shared=True)

    pids_limit = Int(
        1024,
        min=1,
        max=1 << 22,
        help="""Processes and threads that one kernel may have.""",
    ).tag(config=True, shared=True)

    kernel_uid = Int(
        1000,
        help="""User and group id as which a privileged agent runs kernels; never 0.  An
        unprivileged agent runs them as itself.""",
    ).tag(config=True)

    accelerators = Enum(
        ["auto", "nvml", "declared", "none"],
        default_value="auto",
        help="""Where this node's accelerators are found.  ``nvml``: the GPUs that the NVIDIA
        driver lists.  ``declared``: those in ``devices``.  ``none``: it offers none.  ``auto``:
        those in ``devices``, or if there are none in it, those of an NVIDIA driver that is
        installed.""",
    ).tag(config=True)

    devices = List(
        Dict(),
        help="""Accelerators that are not found by themselves, each such as ``{"id": "npu0",
        "kind": "tpu", "name": "Edge", "memory": "8g", "files": ["/dev/apex_0"]}``.  Only ``id``
        is needed; ``kind`` is ``cuda`` unless it is given, and ``shares`` is 1.""",
    ).tag(config=True)

    divide_devices = Bool(
        False,
        help="""Whether ``cuda`` devices are offered in parts, as ``cuda.shares``, instead of as a
        whole, as ``cuda.device``.  Nothing keeps a kernel from using more of a device than its
        share.""",
    ).tag(config=True, shared=True)

    device_strategy = Enum(
        ["fill", "evenly"],
        default_value="fill",
        help="""Which devices a kernel gets.  ``fill``: those that are the most in use already,
        so that others stay free for who needs a whole one.  ``evenly``: those that are the least
        in use.""",
    ).tag(config=True, shared=True)

    accelerator_timeout_s = Float(
        10.0,
        min=0.1,
        max=600.0,
        help="""Seconds that the driver of accelerators may take to list them.  While it takes
        longer none is offered; kernels that have some go on.""",
    ).tag(config=True, shared=True)

    answer_timeout_s = Float(
        60.0,
        min=0.1,
        help="""Seconds that a started kernel program may take until its first answer.  See
        ``BackendAI.start_timeouts`` for all of a start.""",
    ).tag(config=True, shared=True)

    engine_timeout_s = Float(
        60.0,
        min=0.1,
        max=3600.0,
        help="""Seconds that the Docker engine may take for one answer.  Larger bears with an
        engine under heavy load; smaller notices sooner that one hangs.""",
    ).tag(config=True, shared=True)

    stop_grace_s = Float(
        2.0,
        min=0.0,
        max=3600.0,
        help="""Seconds between SIGTERM and SIGKILL when a kernel is ended by force.""",
    ).tag(config=True, shared=True)

    heartbeat_s = Float(
        3.0,
        min=0.05,
        max=600.0,
        help="""Seconds between reports when nothing changes.  An agent that is silent for four
        of them counts as lost.""",
    ).tag(config=True, shared=True)

    statistics_s = Float(
        5.0,
        min=0.1,
        max=3600.0,
        help="""Seconds between two measurements of what the kernels and this node use.  Smaller
        shows short peaks of processor use, and costs a fraction of a millisecond per kernel each
        time.""",
    ).tag(config=True, shared=True)

    @default("agent_id")
    def _host_name(self) -> str:
        return platform.node() or "host"

    @default("state_dir")
    def _in_jupyter_data(self) -> str:
        return str(Path(jupyter_data_dir()) / "backendai-agent")

    @default("runtime_dir")
    def _short(self) -> str:
        return short_directory("backendai-agent")

    @validate("runtime_dir")
    def _leaves_room_for_sockets(self, proposal: Any) -> str:
        return checked_for_sockets("BackendAIAgent.runtime_dir", proposal.value)

    @validate("agent_id", "resource_group")
    def _is_a_name(self, proposal: Any) -> str:
        if not NODE_NAME.fullmatch(proposal.value):
            raise TraitError(
                f"BackendAIAgent.{proposal.trait.name} may have letters, digits, '.', '_' and '-', "
                "at most 64"
            )
        return str(proposal.value)

    def check_cluster(self) -> None:
        """Raise ``InvalidInput`` naming what an agent of its own needs and has not."""
        given = {
            "etcd_url": self.etcd_url,
            "redis_url": self.redis_url,
            "cluster_secret_file": self.cluster_secret_file,
        }
        if not all_or_none("BackendAIAgent", given):
            raise InvalidInput("BackendAIAgent.etcd_url", "an agent needs the cluster's etcd")
        if not self.vfolder_hosts:
            raise InvalidInput("BackendAIAgent.vfolder_hosts", "an agent needs at least one")

    @property
    def journal_bytes(self) -> int:
        """``journal_size`` as a number."""
        return parse_size(self.journal_size)

    def hosts(self) -> dict[str, VFolderHost]:
        """Return the vfolder hosts of this node; raises ``InvalidInput``."""
        return read_hosts(self.vfolder_hosts, field="BackendAIAgent.vfolder_hosts")

    def declared(self) -> tuple[Device, ...]:
        """Return what is in ``devices``; raises ``InvalidInput``."""
        return read_devices(self.devices, field="BackendAIAgent.devices")

    @validate("devices")
    def _can_be_read(self, proposal: Any) -> list[dict[str, Any]]:
        try:
            read_devices(proposal.value, field="BackendAIAgent.devices")
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return list(proposal.value)

    @validate("mem_reserve", "journal_size")
    def _is_a_size(self, proposal: Any) -> str:
        name = f"BackendAIAgent.{proposal.trait.name}"
        try:
            size_bytes = parse_size(proposal.value)
        except ValueError as error:
            raise TraitError(f"{name}: {error}") from None
        if proposal.trait.name == "journal_size" and size_bytes < MIN_JOURNAL_BYTES:
            raise TraitError(f"{name}: must be at least 1m")
        return str(proposal.value)

    @validate("session_subnets")
    def _is_a_network(self, proposal: Any) -> str:
        try:
            network = IPv4Network(proposal.value) if proposal.value else None
        except ValueError as error:
            raise TraitError(f"BackendAIAgent.session_subnets: {error}") from None
        if network is not None and network.prefixlen > LARGEST_PREFIX:
            raise TraitError(f"BackendAIAgent.session_subnets: at most a /{LARGEST_PREFIX}")
        return str(proposal.value)

    @validate("kernel_uid")
    def _is_not_root(self, proposal: Any) -> int:
        if proposal.value <= 0:
            raise TraitError("BackendAIAgent.kernel_uid must be above 0: kernels never run as root")
        return int(proposal.value)
