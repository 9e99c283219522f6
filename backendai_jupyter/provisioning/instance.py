"""One run of an embedded backend: its directories, its lock, its will.

Several processes on a machine (a server, a few papermill runs) may each embed a backend
over the same database.  Each has a directory beside the database, locked while it lives.  A
directory whose lock is free belongs to a process that died; ``facts.json`` in it says what
to clear away (see reap.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from backendai_jupyter.errors import Unavailable

_FACTS = "facts.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody else needs to know to clear an instance away."""

    cluster_id: str
    agent_id: str
    database_url: str
    run_root: str  # sockets; short
    scratch_root: str  # kernels' home directories
    docker_url: str | None  # None: no engine was used

    @property
    def process_dir(self) -> Path:
        """Where the process runtime keeps what it knows of its kernels."""
        return Path(self.run_root) / "p"


class Instance:
    """A locked instance; ``run_root`` and ``scratch_root`` exist while it lives."""

    def __init__(self, path: Path, facts: Facts, lock: int) -> None:
        self._path = path
        self.facts = facts
        self._lock = lock

    @property
    def run_root(self) -> Path:
        return Path(self.facts.run_root)

    @property
    def path(self) -> Path:
        return self._path

    @classmethod
    def create(cls, root: Path, facts: Facts) -> Instance:
        """Make and lock a new directory below ``root``, and the two that it speaks of."""
        _make_shared(Path(facts.run_root).parent)
        path = root / facts.cluster_id
        path.mkdir(mode=0o700, parents=True)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        facts_file = os.open(path / _FACTS, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(facts_file, "w") as file:
            json.dump(asdict(facts), file)
        Path(facts.run_root).mkdir(mode=0o711)
        Path(facts.scratch_root).mkdir(mode=0o711, parents=True)
        return cls(path, facts, lock)

    @classmethod
    def adopt(cls, path: Path) -> Instance | None:
        """Lock and return the instance at ``path`` if its process is dead."""
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = Facts(**json.loads((path / _FACTS).read_text()))
        except (OSError, ValueError, TypeError):
            os.close(lock)  # alive, still being made, or already being cleared away
            return None
        return cls(path, facts, lock)

    @classmethod
    def dead(cls, root: Path) -> Iterator[Instance]:
        """Yield, locked, every instance below ``root`` whose process is gone."""
        for path in sorted(root.glob("*/")):
            instance = cls.adopt(path)
            if instance is not None:
                yield instance

    def remove(self) -> None:
        """Remove the directories; nothing of the instance is left."""
        shutil.rmtree(self.facts.scratch_root, ignore_errors=True)
        shutil.rmtree(self.facts.run_root, ignore_errors=True)
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)
        with contextlib.suppress(OSError):  # other instances may live there
            self.run_root.parent.rmdir()


def new_cluster_id() -> str:
    return uuid.uuid4().hex


def _make_shared(root: Path) -> None:
    """Make the directory of all instances' sockets; refuse one that somebody else prepared."""
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    info = root.lstat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022 or root.is_symlink():
        raise Unavailable(
            f"{root} must be a directory that only you can write to; "
            "remove it, or set BackendAI.runtime_dir to another one."
        )
