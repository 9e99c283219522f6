"""Checks of what a machine shares with the others of its cluster: stores, secret, agents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from backendai_jupyter.agent.runtime.docker_engine import connect, find_engine
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
    url = settings.agent.docker_url or None
    if settings.agent.runtime == "process" or not await find_engine(url):
        return Found(State.OK, "not used: there is no Docker engine")
    state = await asyncio.to_thread(_swarm_state, url)
    if state == "active":
        return Found(State.OK, "this engine is a member")
    message = f"This engine is no member of a swarm ({state})."
    advice = "Sessions over several nodes need one: docker swarm init, docker swarm join."
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


def _swarm_state(url: str | None) -> str:
    client = connect(url)
    try:
        return str(client.info()["Swarm"]["LocalNodeState"])
    finally:
        client.close()
