"""Policies of resource groups: what is written is read, or refused by its field."""

from __future__ import annotations

import pytest

from backendai_jupyter.config import BackendAI
from backendai_jupyter.config.shared import checked
from backendai_jupyter.domain.groups import (
    GroupPolicy,
    HeadOfLine,
    Order,
    Strategy,
    read_groups,
)
from backendai_jupyter.errors import InvalidInput


def test_what_is_not_written_is_first_come_first_served_dispersed_and_strict() -> None:
    assert read_groups({"x": {}}, field="f") == {"x": GroupPolicy()}
    assert GroupPolicy() == GroupPolicy(Order.FIFO, Strategy.DISPERSED, HeadOfLine.STRICT, 5)


def test_everything_can_be_written() -> None:
    raw = {
        "order": "drf",
        "strategy": "roundrobin",
        "head_of_line": "skip",
        "skip_after": 0,
    }
    wanted = GroupPolicy(Order.DRF, Strategy.ROUND_ROBIN, HeadOfLine.SKIP, 0)
    assert read_groups({"gpu": raw}, field="f") == {"gpu": wanted}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"a b": {}}, "a b"),
        ({"": {}}, ""),
        ({"gpu": "fifo"}, "gpu"),
        ({"gpu": {"policy": "x"}}, "gpu.policy"),
        ({"gpu": {"order": "fair"}}, "gpu.order"),
        ({"gpu": {"order": ["fifo"]}}, "gpu.order"),
        ({"gpu": {"strategy": None}}, "gpu.strategy"),
        ({"gpu": {"head_of_line": True}}, "gpu.head_of_line"),
        ({"gpu": {"head_of_line": "skip", "skip_after": -1}}, "gpu.skip_after"),
        ({"gpu": {"head_of_line": "skip", "skip_after": True}}, "gpu.skip_after"),
        ({"gpu": {"skip_after": 3}}, "gpu.skip_after"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_groups(raw, field="BackendAI.resource_groups")
    assert caught.value.field == f"BackendAI.resource_groups.{field}"
    with pytest.raises(InvalidInput) as shared:
        checked("BackendAI.resource_groups", raw)
    assert f".{field}" in shared.value.problem


def test_a_cluster_may_share_it() -> None:
    raw = {"gpu": {"order": "lifo"}}
    assert checked("BackendAI.resource_groups", raw) == raw
    assert BackendAI(resource_groups=raw).groups() == {"gpu": GroupPolicy(Order.LIFO)}
