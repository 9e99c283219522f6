"""An agent's place in the cluster: a key that is there for as long as the agent is."""

from __future__ import annotations

import logging

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import ClusterStore
from backendai_jupyter.errors import Conflict, Unavailable
from backendai_jupyter.supervisor import Loop

log = logging.getLogger(__name__)

TTL_S = 10.0


class Registration:
    """Keeps an agent registered under a lease; run it under a supervisor.

    ``node`` tells machines apart: the same one may come again while its former lease lives,
    another one with the same agent id may not.
    """

    def __init__(
        self, store: ClusterStore, agent_id: str, node: str, *, ttl_s: float = TTL_S
    ) -> None:
        self._store = store
        self._agent_id = agent_id
        self._key = keys.registration(agent_id)
        self._node = node
        self._ttl_s = ttl_s

    async def check(self) -> None:
        """Raise ``Conflict`` if another node has this agent's id."""
        holder = await self._store.get(self._key)
        if holder is not None and holder.value != self._node:
            raise Conflict(
                f"Another node is registered as agent {self._agent_id}. Set "
                "BackendAIAgent.agent_id to a name of its own on one of them."
            )

    async def run(self) -> None:
        """Register, and again whenever the lease was lost, until cancelled."""
        await Loop(
            "agent registration",
            self._hold,
            period_s=0,
            max_backoff_s=self._ttl_s / 3,
            expected=(Conflict, Unavailable),
        ).run()

    async def _hold(self) -> None:
        async with self._store.lease(self._ttl_s) as lease:
            await self.check()
            holder = await self._store.get(self._key)
            revision = holder.revision if holder else 0
            if not await self._store.put_if(self._key, self._node, revision=revision, lease=lease):
                return  # somebody was faster: look again who
            log.info("agent %s is registered", self._agent_id)
            await lease.lost()
            log.warning("the registration of agent %s has run out", self._agent_id)
