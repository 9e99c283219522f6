"""Read what agents measure, when somebody asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from backendai_jupyter.cluster import keys
from backendai_jupyter.cluster.protocols import LiveStore
from backendai_jupyter.domain.statistics import AgentStatistics, KernelStatistics, NodeStatistics
from backendai_jupyter.errors import Unavailable

log = logging.getLogger(__name__)

WITHIN_S = 2.0  # statistics are never worth a longer wait


@dataclass(frozen=True, slots=True)
class Readings:
    """What agents have published; ``trouble`` says why nobody knows, if that is so.

    Both questions are answered by statistics, or by None and the reason in a sentence.
    """

    agents: Mapping[str, AgentStatistics]
    trouble: str = ""

    def of_node(self, agent_id: str) -> tuple[NodeStatistics | None, str]:
        found = self.agents.get(agent_id)
        return (None, self._why_not(agent_id)) if found is None else (found.node, "")

    def of_kernel(
        self, kernel_id: str, generation: int, agent_id: str | None
    ) -> tuple[KernelStatistics | None, str]:
        """Return what the program of a kernel uses that was asked for last."""
        if agent_id is None:
            return None, "It runs nowhere."
        agent = self.agents.get(agent_id)
        if agent is None:
            return None, self._why_not(agent_id)
        found = agent.kernels.get(kernel_id)
        if found is None or found.generation != generation:
            return None, f"Its agent {agent_id} has not measured it yet."
        return found, ""

    def _why_not(self, agent_id: str) -> str:
        return self.trouble or f"The agent {agent_id} has published none for a while."


class Statistics:
    """Nothing is kept here: statistics belong to the live store, and expire there."""

    def __init__(self, live: LiveStore, *, within_s: float = WITHIN_S) -> None:
        self._live = live
        self._within_s = within_s

    async def read(self, agent_ids: Iterable[str]) -> Readings:
        """Return what these agents have published last."""
        wanted = sorted(set(agent_ids))
        try:
            async with asyncio.timeout(self._within_s):
                texts = await asyncio.gather(*(self._live.get(keys.statistics(i)) for i in wanted))
        except TimeoutError:
            return Readings({}, "The live store does not answer.")
        except Unavailable as error:
            return Readings({}, f"{str(error).rstrip('.')}.")
        parsed = {i: _parsed(i, text) for i, text in zip(wanted, texts, strict=True) if text}
        return Readings({i: found for i, found in parsed.items() if found is not None})


def _parsed(agent_id: str, text: str) -> AgentStatistics | None:
    try:
        return AgentStatistics.model_validate_json(text)
    except ValidationError as error:
        log.warning("the statistics of agent %s are not understood: %s", agent_id, error)
        return None
