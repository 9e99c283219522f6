"""What must be true of a machine for kernels to run on it, checked one by one.

No check changes anything: what it makes in order to try something it removes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from traitlets import TraitError
from traitlets.config import Config

from backendai_jupyter.cli import cluster, installation, machine
from backendai_jupyter.cli.findings import Finding, Found, Settings, State
from backendai_jupyter.errors import BackendError

Check = Callable[[Settings], Found | Awaitable[Found]]

CHECKS: dict[str, Check] = {
    "python": installation.python,
    "packages": installation.packages,
    "server extension": installation.extension,
    "server": installation.server,
    "kernelspecs": installation.kernelspecs,
    "data directory": machine.data_dir,
    "secret files": machine.secret_files,
    "database": machine.database,
    "runtime directory": machine.runtime_dir,
    "relay": machine.relay,
    "docker": machine.docker,
    "images": machine.images,
    "sandbox": machine.sandbox,
    "limits": machine.limits,
    "capacity": machine.capacity,
    "accelerators": machine.accelerators,
    "remains": machine.remains,
    "etcd": cluster.etcd,
    "redis": cluster.redis,
    "clock": cluster.clock,
    "cluster secret": cluster.secret,
    "agents": cluster.agents,
    "swarm": cluster.swarm,
}


# What a node without a Jupyter Server does not have.
_OF_SERVERS = {
    "server extension",
    "server",
    "kernelspecs",
    "data directory",
    "secret files",
    "database",
    "remains",
}


async def run_checks(config: Config, *, is_agent: bool = False) -> list[Finding]:
    """Run all checks in their order; one that breaks is itself a finding."""
    settings = Settings.of(config, is_agent=is_agent)
    findings = []
    for name, check in CHECKS.items():
        if is_agent and name in _OF_SERVERS:
            continue
        found = await _guarded(check, settings)
        findings.append(
            Finding(check=name, state=found.state, message=found.message, advice=found.advice)
        )
    return findings


async def _guarded(check: Check, settings: Settings) -> Found:
    try:
        found = await asyncio.to_thread(check, settings)
        return await found if isinstance(found, Awaitable) else found
    except (BackendError, OSError, TraitError) as error:
        return Found(State.FAIL, str(error))
