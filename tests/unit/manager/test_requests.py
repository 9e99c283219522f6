"""What is asked of sessions of several kernels: what would come of it, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import InvalidInput, NeverFits
from backendai_jupyter.manager.scheduler.snapshot import Placed
from tests.fakes import LiveStoreOfAgentsWithNetworks
from tests.unit.one_machine import CPUS, OneMachine


@pytest.fixture
async def machine(tmp_path: Path, url: str) -> AsyncIterator[OneMachine]:
    made = OneMachine(tmp_path, url, live=LiveStoreOfAgentsWithNetworks)
    await made.start()
    yield made
    await made.kill()


async def test_a_dry_run_names_the_agents(machine: OneMachine) -> None:
    request = {"cluster_size": 3, "cluster_mode": "multi-node"}
    await machine.another_agent("b")
    decision = await machine.manager.sessions.try_out(
        machine.request(options=request), machine.manager.viewer
    )
    assert isinstance(decision, Placed)
    assert set(decision.agents) == {"main1", "sub1", "sub2"}
    assert set(decision.agents.values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        pytest.param({"cluster_size": 17}, "backendai.cluster_size", id="too many"),
        pytest.param({"startup": {"sub": ["x"]}}, "backendai.startup.sub", id="nobody"),
    ],
)
async def test_what_cannot_be_is_refused_by_field(
    machine: OneMachine, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await machine.ask_for(options=options)
    assert caught.value.field == field


async def test_kernels_of_one_node_must_fit_there_together(machine: OneMachine) -> None:
    with pytest.raises(NeverFits, match=f"its {CPUS + 1} kernels on one agent ask"):
        await machine.ask_for(options={"cluster_size": CPUS + 1})


async def test_a_mode_that_no_agent_has_is_refused(tmp_path: Path, url: str) -> None:
    machine = OneMachine(tmp_path, url)
    await machine.start()
    try:
        with pytest.raises(InvalidInput) as caught:
            await machine.ask_for(
                options={"cluster_size": 2, "cluster_mode": ClusterMode.MULTI_NODE.value}
            )
        assert caught.value.field == "backendai.cluster_mode"
    finally:
        await machine.kill()
