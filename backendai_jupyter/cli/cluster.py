"""Checks of what a machine shares with the others of its cluster: stores, secret, agents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from backendai_jupyter.agent.runtime.docker_engine import connect, find_engine
from backendai_jupyter.agent.runtime.docker_swarm import read_swarm
from backendai_jupyter.cli.findings import Found, Settings, State
from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.cluster.stores import (
    check_etcd,
    check_redis,
    open_stores,
    skew_of_redis,
)
from backendai_jupyter.domain.wire import AgentReport
from backendai_jupyter.storage.hosts import read_markers

MAX_SKEW_S = 1.0
CONNECT_WITHIN_S = 2.0
SWARM_PORTS = (2377, 7946)  # of a manager
SWARM_TRAFFIC = "2377/tcp (managers), 7946/tcp and udp, and 4789/udp"
_NO_ENGINE = Found(State.OK, "not used: there is no Docker engine")
_ALONE = Found(State.OK, "not used: this machine is a cluster of its own")


async def etcd(settings: Settings) -> Found:
    if not settings.cluster:
        return _ALONE
    return Found(State.OK, await check_etcd(settings.cluster.etcd_url))


async def redis(settings: Settings) -> Found:
    if not settings.cluster:
        return _ALONE
    return Found(State.OK, await check_redis(settings.cluster.redis_url))


async def clock(settings: Settings) -> Found:
    if not settings.cluster:
        return _ALONE
    skew_s = await skew_of_redis(settings.cluster.redis_url)
    ahead = "behind" if skew_s > 0 else "ahead of"
    message = f"{abs(skew_s):.2f} s {ahead} the clock of Redis's machine"
    if abs(skew_s) <= MAX_SKEW_S:
        return Found(State.OK, message)
    advice = "Histories will be out of order. Run a time service on all machines, e.g. chrony."
    return Found(State.WARN, message, advice)


def secret(settings: Settings) -> Found:
    if not settings.cluster:
        return _ALONE
    section = settings.cluster
    Sealer.from_file(
        section.cluster_secret_file, field=f"{type(section).__name__}.cluster_secret_file"
    )
    return Found(State.OK, f"{section.cluster_secret_file}, readable by nobody else")


async def agents(settings: Settings) -> Found:
    """What the agents say of themselves, as a manager reads it."""
    if not settings.cluster:
        return _ALONE
    section = settings.cluster
    async with open_stores(section.etcd_url, section.redis_url) as (cluster, live):
        registered = {
            entry.key.removeprefix(keys.AGENTS)
            for entry in (await cluster.list(keys.AGENTS)).entries
        }
        texts = (await live.list(keys.REPORTS)).values()
    reports = {r.agent_id: r for r in (AgentReport.model_validate_json(text) for text in texts)}
    problems = _silent(registered, reports) + _other_versions(reports)
    problems += await asyncio.to_thread(_other_disks, settings, reports)
    if problems:
        return Found(State.WARN, " ".join(problems), "See the log of backendai-agent there.")
    if not reports:
        return Found(State.WARN, "No agent is alive.", "Start backendai-agent on a node.")
    return Found(State.OK, ", ".join(sorted(reports)))


async def swarm(settings: Settings) -> Found:
    if not settings.cluster:
        return _ALONE
    info = await _engine(settings)
    if info is None:
        return _NO_ENGINE
    state = str(info["Swarm"]["LocalNodeState"])
    if state == "active":
        return await _member(info)
    if info["LiveRestoreEnabled"]:
        return Found(State.OK, "no member: an engine with live-restore cannot be one")
    message = f"This engine is no member of a swarm ({state})."
    advice = "Sessions over several nodes need one: docker swarm init, docker swarm join."
    return Found(State.WARN, message, advice)


async def _member(info: Mapping[str, Any]) -> Found:
    """Whether a member of a swarm reaches its managers, by TCP: UDP gives no answer."""
    swarm = info["Swarm"]
    manages = swarm["ControlAvailable"]
    role = "this engine manages a swarm" if manages else "this engine is a member of a swarm"
    if not manages and read_swarm(info, outside="") is None:
        message = f"{role.capitalize()}, and this user may not read which one."
        return Found(State.WARN, message, "Run backendai-agent as root.")
    hosts = {str(one["Addr"]).rpartition(":")[0] for one in swarm["RemoteManagers"] or ()}
    doors = [(host, port) for host in sorted(hosts) for port in SWARM_PORTS]
    answers = await asyncio.gather(*(_answers(host, port) for host, port in doors))
    silent = [f"{h}:{port}" for (h, port), said in zip(doors, answers, strict=True) if not said]
    if not silent:
        return Found(State.OK, f"{role}; its managers answer")
    message = f"{role.capitalize()}, but does not reach {', '.join(silent)}."
    return Found(State.WARN, message, f"Let its nodes reach each other by {SWARM_TRAFFIC}.")


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def live_restore(settings: Settings) -> Found:
    """Whether kernels survive their engine; a member of a swarm cannot have it so."""
    info = await _engine(settings)
    if info is None:
        return _NO_ENGINE
    if info["LiveRestoreEnabled"]:
        return Found(State.OK, "kernels go on while the engine is stopped, upgraded or killed")
    message = "Kernels end when the engine is stopped, upgraded or killed."
    if not settings.is_agent or info["Swarm"]["LocalNodeState"] == "active":
        return Found(State.OK, message)
    advice = 'Put "live-restore": true into /etc/docker/daemon.json; systemctl reload docker.'
    return Found(State.WARN, message, advice)


def _silent(registered: set[str], reports: Mapping[str, AgentReport]) -> list[str]:
    found = [
        f"{one} is registered in etcd and not heard in Redis." for one in registered - set(reports)
    ]
    return found + [
        f"{one} is heard in Redis and not registered in etcd." for one in set(reports) - registered
    ]


def _other_versions(reports: Mapping[str, AgentReport]) -> list[str]:
    versions = sorted({report.version for report in reports.values()})
    return [f"Agents have different versions: {', '.join(versions)}."] if versions[1:] else []


def _other_disks(settings: Settings, reports: Mapping[str, AgentReport]) -> list[str]:
    """Compare the markers of the vfolder hosts here with those that agents see."""
    hosts = settings.agent.hosts() if settings.is_agent else settings.manager.hosts()
    found = []
    for name, marker in sorted(read_markers(hosts).items()):
        wrong = [r.agent_id for r in reports.values() if r.vfolder_hosts.get(name) != marker]
        if wrong:
            found.append(f"The vfolder host {name!r} is not mounted on {', '.join(sorted(wrong))}.")
    return found


async def _engine(settings: Settings) -> dict[str, Any] | None:
    """Return what the Docker engine says of itself; None where none is used."""
    url = settings.agent.docker_url or None
    if settings.agent.runtime == "process" or not await find_engine(url):
        return None
    return await asyncio.to_thread(_info, url)


def _info(url: str | None) -> dict[str, Any]:
    client = connect(url)
    try:
        return dict(client.info())
    finally:
        client.close()
