"""Statistics as people read them."""

from __future__ import annotations

from dataclasses import replace

from backendai_jupyter.cli.use import kernel_use, node_shares, node_use, session_use
from backendai_jupyter.domain.records import Agent as AgentRecord
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.statistics import KernelStatistics, NodeStatistics
from backendai_jupyter.web.models import Agent, Kernel, Session, agents_of, session_of
from tests.records import make_kernel, make_session

MIB = 1 << 20
BUSY = KernelStatistics(
    generation=1,
    at=1,
    cpu_used_s=12.345,
    cpu_cores=0.987,
    memory_used_bytes=200 * MIB,
    memory_peak_bytes=300 * MIB,
    memory_limit_bytes=1024 * MIB,
    io_read_bytes=0,
    io_write_bytes=MIB,
    network_received_bytes=2 * MIB,
    network_sent_bytes=3 * MIB,
    processes=3,
    home_bytes=4096,
)
UNKNOWN = KernelStatistics(generation=1, at=1)
NODE = NodeStatistics(
    at=1,
    cpus=2,
    cpu_cores=0.4,
    load_1m=1.5,
    load_5m=1,
    load_15m=0,
    memory_total_bytes=1024 * MIB,
    memory_available_bytes=768 * MIB,
    scratch_total_bytes=2048 * MIB,
    scratch_free_bytes=1024 * MIB,
    kernels_running=3,
)


def session_using(*found: KernelStatistics | None) -> Session:
    rows = tuple(make_kernel(str(i), status=Status.RUNNING) for i in range(len(found)))
    session = session_of(replace(make_session(), kernels=rows))
    kernels = [
        kernel.model_copy(update={"statistics": one, "statistics_reason": "" if one else "Redis."})
        for kernel, one in zip(session.kernels, found, strict=True)
    ]
    return session.model_copy(update={"kernels": kernels})


def kernel_using(found: KernelStatistics | None) -> Kernel:
    return session_using(found).kernels[0]


def agent_using(found: NodeStatistics | None) -> Agent:
    [agent] = agents_of([AgentRecord("a", "1", Slots(), Slots(), (), (), 5.0)], {}).root
    reason = "" if found else "The agent a has published none for a while."
    return agent.model_copy(update={"statistics": found, "statistics_reason": reason})


def test_a_session_uses_what_all_its_kernels_do() -> None:
    assert session_use(session_using(BUSY, BUSY, None)) == ("1.97", "400 MiB")
    assert session_use(session_using(None, UNKNOWN)) == ("", "")


def test_a_kernel_says_all_that_is_known() -> None:
    assert dict(kernel_use(kernel_using(BUSY))) == {
        "cpu": "0.99 cores now, 12.35 s in all",
        "memory": "200 MiB now, 300 MiB at most, limit 1 GiB",
        "disk": "0 bytes read, 1 MiB written",
        "network": "2 MiB received, 3 MiB sent",
        "processes": "3",
        "home": "4 KiB",
    }


def test_what_is_unknown_is_not_said_to_be_nothing() -> None:
    assert dict(kernel_use(kernel_using(UNKNOWN))) == {
        "cpu": "? cores now, ? s in all",
        "memory": "? now, ? at most",
        "disk": "? read, ? written",
        "processes": "?",
        "home": "?",
    }


def test_why_there_is_nothing_is_said() -> None:
    assert list(kernel_use(kernel_using(None))) == [("uses", "Redis.")]
    assert list(node_use(agent_using(None))) == [
        ("uses", "The agent a has published none for a while.")
    ]


def test_a_node_says_how_much_of_it_is_used() -> None:
    assert node_shares(agent_using(NODE)) == ("0.40 of 2", "256 MiB of 1 GiB")
    assert node_shares(agent_using(None)) == ("", "")
    assert dict(node_use(agent_using(NODE))) == {
        "kernels": "3 running",
        "cores busy": "0.40 of 2",
        "load": "1.50, 1.00, 0.00",
        "memory used": "256 MiB of 1 GiB",
        "scratch": "1 GiB free of 2 GiB",
    }
