"""What a node keeps while no agent runs on it: who it is, and its kernels' directories."""

from __future__ import annotations

import fcntl
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from backendai_jupyter.agent.equipment import Site
from backendai_jupyter.cluster.keys import CLUSTER_ID
from backendai_jupyter.config import BackendAIAgent
from backendai_jupyter.errors import Conflict
from backendai_jupyter.storage.private import own_directory

_LOCK, _NODE, _SCRATCH = "lock", "node", "scratch"


@dataclass(frozen=True, slots=True)
class Home:
    """The locked state directory of one agent; ``node`` is its own for ever."""

    site: Site
    node: str
    lock: int

    def close(self) -> None:
        os.close(self.lock)


def open_home(settings: BackendAIAgent) -> Home:
    """Make the directories of an agent and lock them.

    Raises ``Conflict`` where another agent has them, ``Unavailable`` where they are not ours.
    """
    state = Path(settings.state_dir)
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        node = _node_of(state)
        run_root = own_directory(Path(settings.runtime_dir), setting="BackendAIAgent.runtime_dir")
        scratch_root = state / _SCRATCH
        scratch_root.mkdir(mode=0o711, exist_ok=True)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            f"Another agent uses {state}. Stop it first, or set BackendAIAgent.state_dir to "
            "another directory."
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return Home(Site(settings.agent_id, CLUSTER_ID, run_root, scratch_root), node, lock)


def _node_of(state: Path) -> str:
    path = state / _NODE
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(uuid.uuid4().hex)
        partial.rename(path)
    return path.read_text().strip()
