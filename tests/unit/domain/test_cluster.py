"""What is asked of sessions of several kernels, and who of them outlives whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai_jupyter.domain.cluster import FailurePolicy
from backendai_jupyter.domain.members import (
    OVER,
    end_of_the_others,
    identity,
    membership,
    status_of,
)
from backendai_jupyter.domain.options import Options, merge
from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.domain.states import FINAL, Status
from backendai_jupyter.domain.wire import ClusterMode
from backendai_jupyter.errors import InvalidInput
from tests.records import make_kernel, make_session


def several(*statuses: Status, policy: FailurePolicy, is_up: bool = True) -> ComputeSession:
    kernels = tuple(
        replace(make_kernel(f"k{i}", status=s), role="sub" if i else "main", idx=i or 1)
        for i, s in enumerate(statuses)
    )
    session = replace(make_session(), kernels=kernels, failure_policy=policy)
    return replace(session, started_at=1.0 if is_up else None)


def test_everything_is_read() -> None:
    options = Options.parse(
        {
            "cluster_size": 3,
            "cluster_mode": "multi-node",
            "failure_policy": "degraded",
            "startup": {"sub": "dask worker 'tcp://main1:8786'", "main": ["dask", "scheduler"]},
        }
    )
    assert (options.cluster_size, options.cluster_mode) == (3, ClusterMode.MULTI_NODE)
    assert options.failure_policy is FailurePolicy.DEGRADED
    assert options.startup == {
        "main": ("dask", "scheduler"),
        "sub": ("dask", "worker", "tcp://main1:8786"),
    }
    assert merge([options, Options.parse({"cluster_size": 2})]) == options.model_copy(
        update={"cluster_size": 2}
    )


def test_the_environment_says_the_same() -> None:
    environ = {
        "BACKENDAI_CLUSTER_SIZE": "3",
        "BACKENDAI_CLUSTER_MODE": "multi-node",
        "BACKENDAI_FAILURE_POLICY": "degraded",
        "BACKENDAI_STARTUP": '{"sub": ["x"]}',
    }
    assert Options.from_environment(environ) == Options.parse(
        {
            "cluster_size": 3,
            "cluster_mode": "multi-node",
            "failure_policy": "degraded",
            "startup": {"sub": ["x"]},
        }
    )


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"cluster_size": 0}, "cluster_size"),
        ({"cluster_size": True}, "cluster_size"),
        ({"cluster_size": "2"}, "cluster_size"),
        ({"cluster_mode": "both"}, "cluster_mode"),
        ({"cluster_mode": ["multi-node"]}, "cluster_mode"),
        ({"failure_policy": "pray"}, "failure_policy"),
        ({"startup": ["x"]}, "startup"),
        ({"startup": {"worker": ["x"]}}, "startup.worker"),
        ({"startup": {"sub": []}}, "startup.sub"),
        ({"startup": {"sub": "'"}}, "startup.sub"),
        ({"startup": {"main": ["x", 1]}}, "startup.main"),
    ],
)
def test_what_is_malformed_is_named(raw: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Options.parse(raw)
    assert caught.value.field == f"backendai.{field}"


def test_main1_comes_first_for_everybody() -> None:
    session = several(*[Status.RUNNING] * 3, policy=FailurePolicy.END)
    for rank, kernel in enumerate(session.kernels):
        place = membership(session, kernel)
        assert place is not None
        assert (place.hosts, place.local_rank) == (("main1", "sub1", "sub2"), rank)
        assert identity(session, kernel)["BACKENDAI_CLUSTER_HOSTS"] == "main1,sub1,sub2"
        assert identity(session, kernel)["BACKENDAI_CLUSTER_REPLICAS"] == "main:1,sub:2"
    alone = make_session()
    assert membership(alone, alone.main) is None
    assert identity(alone, alone.main)["BACKENDAI_CLUSTER_REPLICAS"] == "main:1"


@given(
    st.lists(st.sampled_from(Status), min_size=2, max_size=4),
    st.sampled_from(FailurePolicy),
    st.booleans(),
)
def test_nobody_is_left_beside_one_that_has_ended_unless_that_is_the_policy(
    statuses: list[Status], policy: FailurePolicy, is_up: bool
) -> None:
    session = several(*statuses, policy=policy, is_up=is_up)
    gone = [k for k in session.kernels if k.status in OVER]
    goes_on = policy is FailurePolicy.DEGRADED and is_up and session.main not in gone
    must_end = bool(gone) and len(gone) < len(statuses) and not goes_on
    assert (end_of_the_others(session) is not None) == must_end
    status, _ = status_of(session, session.kernels)
    assert (status in FINAL) == all(s in FINAL for s in statuses)
    if goes_on and gone:
        assert status_of(session, session.kernels)[1].startswith("It goes on without sub")


def test_the_first_reason_is_passed_on() -> None:
    session = several(Status.RUNNING, Status.TERMINATED, policy=FailurePolicy.END)
    main, sub = session.kernels
    session = replace(session, kernels=(main, replace(sub, status_reason="It ran out of memory.")))
    ending = end_of_the_others(session)
    assert ending is not None
    assert ending.message == ("sub1 has ended, and the session ends with it. It ran out of memory.")
