"""Statistics in words: what kernels and nodes use at the moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backendai_jupyter.domain.resources import size_for_people
from backendai_jupyter.domain.statistics import KernelStatistics, NodeStatistics
from backendai_jupyter.web.models import Agent, Kernel, Session

UNKNOWN = "?"


def session_use(one: Session) -> tuple[str, str]:
    """Return the cores and the memory that all kernels of a session use, as far as is known."""
    measured = [kernel.statistics for kernel in one.kernels if kernel.statistics is not None]
    cores = [found.cpu_cores for found in measured if found.cpu_cores is not None]
    memory = [found.memory_used_bytes for found in measured if found.memory_used_bytes is not None]
    return f"{sum(cores):.2f}" if cores else "", size_for_people(sum(memory)) if memory else ""


def kernel_use(kernel: Kernel) -> Iterable[tuple[str, str]]:
    if kernel.statistics is not None:
        return _kernel_use(kernel.statistics)
    return [("uses", kernel.statistics_reason)] if kernel.exit is None else []


def node_shares(one: Agent) -> tuple[str, str]:
    """Return the cores and the memory in use, e.g. ``0.4 of 2``."""
    found = one.statistics
    return ("", "") if found is None else (_busy(found), _memory_share(found))


def node_use(one: Agent) -> Iterable[tuple[str, str]]:
    if one.statistics is not None:
        return _node_use(one.statistics)
    return [("uses", one.statistics_reason)]


def _kernel_use(found: KernelStatistics) -> Iterator[tuple[str, str]]:
    yield "cpu", f"{_number(found.cpu_cores)} cores now, {_number(found.cpu_used_s)} s in all"
    memory = [f"{_size(found.memory_used_bytes)} now", f"{_size(found.memory_peak_bytes)} at most"]
    if found.memory_limit_bytes is not None:
        memory.append(f"limit {_size(found.memory_limit_bytes)}")
    yield "memory", ", ".join(memory)
    yield "disk", f"{_size(found.io_read_bytes)} read, {_size(found.io_write_bytes)} written"
    if found.network_received_bytes is not None:
        received, sent = _size(found.network_received_bytes), _size(found.network_sent_bytes)
        yield "network", f"{received} received, {sent} sent"
    yield "processes", UNKNOWN if found.processes is None else str(found.processes)
    yield "home", _size(found.home_bytes)


def _node_use(found: NodeStatistics) -> Iterator[tuple[str, str]]:
    yield "kernels", f"{found.kernels_running} running"
    yield "cores busy", _busy(found)
    loads = (found.load_1m, found.load_5m, found.load_15m)
    yield "load", ", ".join(map(_number, loads))
    yield "memory used", _memory_share(found)
    free, total = _size(found.scratch_free_bytes), _size(found.scratch_total_bytes)
    yield "scratch", f"{free} free of {total}"


def _busy(found: NodeStatistics) -> str:
    return f"{_number(found.cpu_cores)} of {UNKNOWN if found.cpus is None else found.cpus}"


def _memory_share(found: NodeStatistics) -> str:
    total, available = found.memory_total_bytes, found.memory_available_bytes
    used = None if total is None or available is None else total - available
    return f"{_size(used)} of {_size(total)}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _size(n_bytes: int | None) -> str:
    return UNKNOWN if n_bytes is None else size_for_people(n_bytes)
