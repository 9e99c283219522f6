"""Put statistics into answers, or why there are none."""

from __future__ import annotations

from typing import TypeVar

from backendai_jupyter.domain.states import FINAL
from backendai_jupyter.manager.statistics import Readings
from backendai_jupyter.web.models import Agent, Kernel, Session

S = TypeVar("S", bound=Session)


def session_with(readings: Readings, session: S) -> S:
    """Return the same session with what its kernels use."""
    kernels = [_kernel_with(readings, kernel) for kernel in session.kernels]
    return session.model_copy(update={"kernels": kernels})


def agent_with(readings: Readings, agent: Agent) -> Agent:
    """Return the same agent with what its node uses."""
    found, reason = readings.of_node(agent.id)
    return agent.model_copy(update={"statistics": found, "statistics_reason": reason})


def _kernel_with(readings: Readings, kernel: Kernel) -> Kernel:
    if kernel.status in FINAL:
        found, reason = None, "It has ended."
    else:
        found, reason = readings.of_kernel(kernel.id, kernel.generation, kernel.agent_id)
    return kernel.model_copy(update={"statistics": found, "statistics_reason": reason})
