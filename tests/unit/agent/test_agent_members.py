"""A kernel of a session of several gets what its members know each other by; others do not."""

from __future__ import annotations

from pathlib import Path

from backendai_jupyter.domain.wire import ClusterMode, Membership, Phase
from tests.fakes import RuntimeInMemory, answer_at_once
from tests.unit.agent.one_node import OneNode


async def test_only_members_of_a_session_of_several_get_its_secret(tmp_path: Path) -> None:
    node = OneNode(tmp_path, RuntimeInMemory(), answer_at_once)
    await node.agent.start()
    await node.assign()
    await node.until(Phase.RUNNING)
    path = node.runtime.specs["k"].run_dir / "members.key"
    assert not path.exists()
    hosts = ("main1", "sub1")
    place = Membership(mode=ClusterMode.SINGLE_NODE, role="main", idx=1, local_rank=0, hosts=hosts)
    await node.assign(generation=2, membership=place)
    await node.until(Phase.RUNNING, generation=2)
    assert path.read_text() == node.sealer.secret_of("s")
    assert path.stat().st_mode & 0o777 == 0o600
    await node.supervisor.close()
