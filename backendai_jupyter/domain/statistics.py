"""What agents measure of their kernels and nodes: on the wire, and in answers of the REST API.

Amounts are in the units that the names end with.  None says that something cannot be measured
there, which is not the same as nothing.
"""

from __future__ import annotations

from pydantic import Field

from backendai_jupyter.domain.wire import Record


class KernelStatistics(Record):
    """What one program of a kernel uses, and has used since it started."""

    generation: int = Field(description="which program of the kernel was measured")
    at: float = Field(description="when, in seconds since the epoch, UTC")
    cpu_used_s: float | None = Field(default=None, description="of processor time, in all")
    cpu_cores: float | None = Field(
        default=None, description="how many processor cores it kept busy since the last measurement"
    )
    memory_used_bytes: int | None = Field(
        default=None, description="without those pages of files that Linux can drop"
    )
    memory_peak_bytes: int | None = Field(
        default=None, description="the most that it ever had, pages of files included"
    )
    memory_limit_bytes: int | None = Field(default=None, description="of the kernel as a whole")
    io_read_bytes: int | None = Field(default=None, description="from disks and network mounts")
    io_write_bytes: int | None = Field(default=None, description="to disks and network mounts")
    network_received_bytes: int | None = Field(
        default=None, description="null where it shares the network of its node"
    )
    network_sent_bytes: int | None = Field(default=None, description="likewise")
    processes: int | None = Field(default=None, description="those of its sandbox included")
    home_bytes: int | None = Field(
        default=None, description="disk space of its home directory; virtual folders do not count"
    )


class NodeStatistics(Record):
    """What a node as a whole uses, whoever uses it."""

    at: float = Field(description="when it was measured, in seconds since the epoch, UTC")
    cpus: int | None = Field(default=None, description="processor cores that it has")
    cpu_cores: float | None = Field(
        default=None, description="how many of them were busy since the last measurement"
    )
    load_1m: float | None = Field(default=None, description="load average of the last minute")
    load_5m: float | None = Field(default=None, description="of five")
    load_15m: float | None = Field(default=None, description="of fifteen")
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = Field(
        default=None, description="what programs can still get without swapping"
    )
    scratch_total_bytes: int | None = Field(
        default=None, description="of the file system that holds kernels' home directories"
    )
    scratch_free_bytes: int | None = None
    kernels_running: int = Field(description="kernels whose program runs")


class AgentStatistics(Record):
    """All that one agent has measured at one time."""

    node: NodeStatistics
    kernels: dict[str, KernelStatistics]  # by id
