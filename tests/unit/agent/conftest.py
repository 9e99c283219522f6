"""What tests of the agent start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes import (
    RuntimeInMemory,
    answer_at_once,
)
from tests.unit.agent.one_node import Ask, OneNode, Start


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    nodes: list[OneNode] = []

    async def make(runtime: RuntimeInMemory | None = None, ask: Ask = answer_at_once) -> OneNode:
        node = OneNode(tmp_path, runtime or RuntimeInMemory(), ask)
        await node.agent.start()
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        await node.supervisor.close()
