"""Clear away what a dead embedded backend left: containers, processes, rows, directories.

Runs inside the next backend that starts, and as a program that the relay turns into when
the process it served dies: ``python -m backendai_jupyter.provisioning.reap DIRECTORY``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from backendai_jupyter.agent.runtime.base import KernelRuntime
from backendai_jupyter.agent.runtime.docker import DockerRuntime
from backendai_jupyter.agent.runtime.process import ProcessRuntime
from backendai_jupyter.domain.records import SYSTEM
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.errors import BackendError, LostRace
from backendai_jupyter.provisioning.instance import Instance
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore

log = logging.getLogger(__name__)

REASON = "The program that had started it ended without ending it."


async def reap(instance: Instance) -> None:
    """End everything that ``instance`` started, then remove its directory."""
    facts = instance.facts
    runtimes: list[KernelRuntime] = [ProcessRuntime(facts.process_dir)]
    if facts.docker_url is not None:
        runtimes.append(
            DockerRuntime(
                agent_id=facts.agent_id, cluster_id=facts.cluster_id, url=facts.docker_url or None
            )
        )
    for runtime in runtimes:
        await _stop_all(runtime)
    database = await Database.open(facts.database_url)
    try:
        await end_sessions(SessionStore(database), facts.cluster_id)
    finally:
        await database.close()
    instance.remove()


async def end_sessions(store: SessionStore, cluster_id: str) -> None:
    """Write that every live session of a dead cluster has ended, and free its slots."""
    now = time.time()
    for session in await store.live(cluster_id):
        await store.terminate(session.id, SYSTEM, reason=REASON, by="reaper", now=now)
        for kernel in (await store.get(session.id, SYSTEM)).kernels:
            if kernel.status in FINAL:
                continue
            try:
                await store.move(kernel.id, Status.TERMINATED, reason=REASON, by="reaper", now=now)
            except LostRace as error:
                log.info("%s", error)  # another process clears up too


async def _stop_all(runtime: KernelRuntime) -> None:
    try:
        await runtime.open()
        for state in await runtime.list():
            await runtime.stop(state.kernel_id, grace_s=0)
        for session_id in await runtime.networks.sessions():
            await runtime.networks.close(session_id)
        await runtime.close()
    except BackendError as error:
        log.warning("remains of the %s runtime could not be cleared: %s", runtime.name, error)


def main() -> None:
    instance = Instance.adopt(Path(sys.argv[1]))
    if instance is not None:
        asyncio.run(reap(instance))


if __name__ == "__main__":
    main()
