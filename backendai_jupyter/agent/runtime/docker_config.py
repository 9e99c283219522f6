"""What we ask of the Docker Engine for one kernel: its confinement, in one place to read.

The names are those of the engine's own API:
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate.
"""

from __future__ import annotations

from typing import Any

from docker.types import DeviceRequest

from backendai_jupyter.agent.runtime.base import HOME, RUN_DIR, ContainerSpec
from backendai_jupyter.agent.runtime.limits import OOM_SCORE, Limits, thread_env

LABEL_KERNEL = "ai.backend.kernel-id"
LABEL_SESSION = "ai.backend.session-id"
LABEL_AGENT = "ai.backend.agent-id"
LABEL_CLUSTER = "ai.backend.cluster-id"
LABEL_GENERATION = "ai.backend.generation"
LABEL_DEVICES = "ai.backend.devices"

SHM_BYTES = 64 * 1024 * 1024
LOG_SIZE = "1m"  # of the one file that keeps what a kernel program prints to its terminal
_CPU_PERIOD_US = 100_000
# As with a local kernel, an interrupt reaches the programs that a cell has started:
# docker-init then signals its child's process group.
_OWN_ENV = {
    "HOME": HOME,
    "USER": "work",
    "LOGNAME": "work",
    "TINI_KILL_PROCESS_GROUP": "1",
}


def network_name(session_id: str) -> str:
    """The name of the network that a session of several kernels has to itself."""
    return f"backendai-{session_id}"


def container_name(spec: ContainerSpec) -> str:
    return f"backendai-{spec.kernel_id}-{spec.generation}"


def container_config(
    spec: ContainerSpec,
    *,
    agent_id: str,
    cluster_id: str,
    network: str,
    pids_limit: int,
    with_init: bool,
) -> dict[str, Any]:
    """Return the body of the engine's create call."""
    return {
        "Image": spec.image.reference,
        "Entrypoint": [spec.argv[0]],
        "Cmd": list(spec.argv[1:]),
        "Env": [f"{name}={value}" for name, value in _env(spec).items()],
        "WorkingDir": spec.workdir,
        "User": f"{spec.uid}:{spec.gid}",
        "Hostname": spec.hostname,
        "StopSignal": "SIGTERM",
        "Labels": {
            LABEL_KERNEL: spec.kernel_id,
            LABEL_SESSION: spec.session_id,
            LABEL_AGENT: agent_id,
            LABEL_CLUSTER: cluster_id,
            LABEL_GENERATION: str(spec.generation),
            LABEL_DEVICES: spec.devices.record,
        },
        "HostConfig": {
            **_limits(spec, pids_limit),
            **_devices(spec),
            "Mounts": _mounts(spec),
            "NetworkMode": network if spec.membership is None else network_name(spec.session_id),
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "OomScoreAdj": OOM_SCORE,
            "Init": with_init,
            "IpcMode": "private",
            "ShmSize": spec.shm_bytes or SHM_BYTES,
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": LOG_SIZE, "max-file": "1"},
            },
        },
        "NetworkingConfig": _networking(spec),
    }


def _env(spec: ContainerSpec) -> dict[str, str]:
    return {**_OWN_ENV, **thread_env(Limits.of(spec.limits)), **spec.env}


def _limits(spec: ContainerSpec, pids_limit: int) -> dict[str, Any]:
    limits: dict[str, Any] = {
        "PidsLimit": pids_limit,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }
    if cpu := spec.limits["cpu"]:
        # As a quota, which may exceed what the node has: the agent offers more than that.
        limits["CpuPeriod"] = _CPU_PERIOD_US
        limits["CpuQuota"] = int(cpu * _CPU_PERIOD_US)
    if mem := spec.limits["mem"]:
        limits["Memory"] = limits["MemorySwap"] = int(mem)  # the same: no swap on top
    return limits


def _networking(spec: ContainerSpec) -> dict[str, Any]:
    if spec.membership is None:
        return {}
    return {"EndpointsConfig": {network_name(spec.session_id): {"Aliases": [spec.hostname]}}}


def _devices(spec: ContainerSpec) -> dict[str, Any]:
    shown = [
        {"PathOnHost": file.host, "PathInContainer": file.inside, "CgroupPermissions": "rw"}
        for file in spec.devices.files_of_containers
    ]
    ids = list(spec.devices.toolkit_ids)
    requests = [DeviceRequest(device_ids=ids, capabilities=[["gpu"]])] if ids else []
    return {"Devices": shown, "DeviceRequests": requests}


def _mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    # Not "source:target" strings: a folder's name may hold a colon, and a source that is
    # missing must be an error, not a new directory of root's.
    shown = [(str(spec.run_dir), RUN_DIR, False), (str(spec.home_dir), HOME, False)]
    shown += [(mount.source, mount.target, mount.readonly) for mount in spec.mounts]
    return [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": readonly}
        for source, target, readonly in shown
    ]
