"""Statistics in answers: those that there are, and why there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backendai_jupyter.domain.records import Agent
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.statistics import AgentStatistics, KernelStatistics, NodeStatistics
from backendai_jupyter.manager.statistics import Readings
from backendai_jupyter.web.models import agents_of, session_of
from backendai_jupyter.web.statistics import agent_with, session_with
from tests.records import make_kernel, make_session

USE = KernelStatistics(generation=1, at=1, memory_used_bytes=5)
NODE = NodeStatistics(at=1, kernels_running=1)
READINGS = Readings({"a": AgentStatistics(node=NODE, kernels={"k": USE})})


def answered(readings: Readings, status: Status, agent_id: str | None) -> tuple[object, str]:
    kernel = make_kernel("k", status=status, agent_id=agent_id)
    answer = session_with(readings, session_of(replace(make_session(), kernels=(kernel,))))
    return answer.kernels[0].statistics, answer.kernels[0].statistics_reason


def test_a_kernel_that_runs_has_its_statistics() -> None:
    assert answered(READINGS, Status.RUNNING, "a") == (USE, "")


@pytest.mark.parametrize(
    ("status", "agent_id", "reason"),
    [
        (Status.TERMINATED, "a", "It has ended."),
        (Status.PENDING, None, "It runs nowhere."),
        (Status.RUNNING, "b", "The agent b has published none for a while."),
    ],
)
def test_a_kernel_without_has_a_reason(status: Status, agent_id: str | None, reason: str) -> None:
    assert answered(READINGS, status, agent_id) == (None, reason)


def test_trouble_is_the_reason_of_all() -> None:
    assert answered(Readings({}, "Redis is away."), Status.RUNNING, "a") == (None, "Redis is away.")


def test_what_cannot_be_measured_is_null_and_not_zero() -> None:
    kernel = make_kernel("k", status=Status.RUNNING, agent_id="a")
    answer = session_with(READINGS, session_of(replace(make_session(), kernels=(kernel,))))
    written = answer.model_dump(mode="json")["kernels"][0]["statistics"]
    assert (written["memory_used_bytes"], written["cpu_cores"]) == (5, None)


def test_an_agent_has_what_its_node_uses() -> None:
    rows = [Agent(id, "1", Slots(), Slots(), (), (), 5.0) for id in ("a", "b")]
    found = [agent_with(READINGS, agent) for agent in agents_of(rows, {}).root]
    assert [(one.statistics, one.statistics_reason) for one in found] == [
        (NODE, ""),
        (None, "The agent b has published none for a while."),
    ]
