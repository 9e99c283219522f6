"""What a kernel may use, and the shell that puts a process under its limits before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.domain.resources import Slots

MAX_PROCESSES = 4096  # per kernel: generous for thread pools on large nodes, deadly to fork bombs
OOM_SCORE = 500  # when the whole node runs out of memory, kernels go before servers

# Arguments: cgroup.procs files, ``--``, the command.  A process that moves itself before it
# becomes the command can have no moment outside its limits.
_ENTER = """\
umask 022
ulimit -c 0
{rlimits}
echo {oom_score} > /proc/self/oom_score_adj
while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Amounts for one kernel; None means not limited."""

    memory_bytes: int | None
    cpus: Decimal | None
    processes: int = MAX_PROCESSES

    @classmethod
    def of(cls, slots: Slots) -> Limits:
        return cls(int(slots["mem"]) or None, slots["cpu"] or None)


def enter_command(
    limits: Limits, procs_files: Sequence[Path], *, rlimit_memory: bool
) -> tuple[str, ...]:
    """Return the words to put before a command so that it runs under ``limits``.

    ``procs_files`` are those of the kernel's cgroups.  With ``rlimit_memory`` each process
    by itself is limited instead, which is the best there is without a memory cgroup.
    """
    rlimits = ""
    if rlimit_memory and limits.memory_bytes is not None:
        rlimits = f"ulimit -d {limits.memory_bytes // 1024}"
    script = _ENTER.format(rlimits=rlimits, oom_score=OOM_SCORE)
    return ("/bin/sh", "-c", script, "limits", *map(str, procs_files), "--")


def thread_env(limits: Limits) -> dict[str, str]:
    """Return the default that keeps numerical libraries from one thread per node's core."""
    return {} if limits.cpus is None else {"OMP_NUM_THREADS": str(math.ceil(limits.cpus))}


def limit_notes(enforced: frozenset[str]) -> tuple[str, ...]:
    """Say what is not enforced when cgroups enforce only ``enforced``."""
    missing = {
        "memory": "Memory is limited for each process and not for a kernel as a whole, "
        "because this node's memory cgroup is not writable.",
        "cpu": "Kernels may use more CPU time than they asked for, "
        "because this node's cpu cgroup is not writable.",
        "pids": "The number of processes in a kernel is not limited, "
        "because this node's pids cgroup is not writable.",
    }
    return tuple(note for controller, note in missing.items() if controller not in enforced)
