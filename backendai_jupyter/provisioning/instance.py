"""The directories of an embedded backend, its lock, its will.

Several processes on a machine (a server, a few papermill runs) may each embed a backend
over the same database.  Each has a directory beside the database, locked while it lives.

A batch run has one of its own below ``instances``: if its lock is free its process died, and
``facts.json`` in it says what to clear away (see reap.py).  The server has the one called
``server``, which stays when it ends: the next server of the same data directory takes it over
with the kernels in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from backendai_jupyter.errors import Conflict, Unavailable
from backendai_jupyter.storage.private import own_directory

_FACTS = ("facts.json", "facts.copy.json")  # the second is read where the first is damaged
_LOCK = "lock"
_OF_BATCH_RUNS = "instances"
_OF_SERVER = "server"


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody else needs to know to clear an instance away."""

    cluster_id: str
    agent_id: str
    database_url: str = field(repr=False)  # with a password, perhaps
    run_root: str  # sockets; short
    scratch_root: str  # kernels' home directories
    docker_url: str | None  # None: no engine was used

    @property
    def scratch_name(self) -> str:
        """Last part of ``scratch_root``; the rest changes when the data directory is moved."""
        return Path(self.scratch_root).name

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
    def create(cls, data_dir: Path, facts: Facts) -> Instance:
        """Make and lock a new instance for a batch run, and the directories it speaks of."""
        path = data_dir / _OF_BATCH_RUNS / facts.cluster_id
        path.mkdir(mode=0o700, parents=True)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write_facts(path, facts)
        _make_roots(facts)
        return cls(path, facts, lock)

    @classmethod
    def take_over(cls, data_dir: Path, facts: Facts) -> Instance:
        """Lock the server's instance and return it, with the cluster that it had before.

        ``facts`` are those of a first start.  A later one keeps the former cluster and
        directories, for kernels live there, and takes the rest from ``facts``.  Raises
        ``Conflict`` if another server has it, ``Unavailable`` if nobody can say what it was.
        """
        path = data_dir / _OF_SERVER
        while (lock := _lock_server(path)) is None:
            pass
        former = _read_facts(path)
        if former is None and any((path / name).exists() for name in _FACTS):
            os.close(lock)
            raise Unavailable(
                f"{path / _FACTS[0]} cannot be read, so the kernels of the former server cannot be "
                f"found. Put it back from a backup; or end those kernels and remove {path}."
            )
        if former is not None:
            facts = replace(
                facts,
                cluster_id=former.cluster_id,
                agent_id=former.agent_id,
                run_root=former.run_root,
                scratch_root=str(Path(facts.scratch_root).with_name(former.scratch_name)),
            )
        if any(_facts_in(path / name) != facts for name in _FACTS):
            _write_facts(path, facts)
        _make_roots(facts)
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
        except OSError:
            os.close(lock)  # alive
            return None
        facts = _read_facts(path)
        if facts is None:
            os.close(lock)  # still being made, or already being cleared away
            return None
        return cls(path, facts, lock)

    @classmethod
    def dead(cls, data_dir: Path) -> Iterator[Instance]:
        """Yield, locked, the instance of every batch run whose process is gone."""
        for path in sorted((data_dir / _OF_BATCH_RUNS).glob("*/")):
            instance = cls.adopt(path)
            if instance is not None:
                yield instance

    def release(self) -> None:
        """Leave everything as it is to the next server."""
        os.close(self._lock)

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


def known_clusters(data_dir: Path) -> set[str]:
    """Return the clusters that have an instance, of a living process or of one that died."""
    facts = _read_facts(data_dir / _OF_SERVER)
    batch = {path.name for path in (data_dir / _OF_BATCH_RUNS).glob("*/")}
    return batch if facts is None else {*batch, facts.cluster_id}


def facts_of(data_dir: Path, cluster_id: str) -> Facts | None:
    """Return what is known of a cluster of this machine; None if it is gone."""
    found = _read_facts(data_dir / _OF_SERVER)
    if found is not None and found.cluster_id == cluster_id:
        return found
    return _read_facts(data_dir / _OF_BATCH_RUNS / cluster_id)


def is_at_work(data_dir: Path, cluster_id: str) -> bool:
    """Whether a process of this machine has the cluster, or will be cleared up after."""
    found = _read_facts(data_dir / _OF_SERVER)
    if found is None or found.cluster_id != cluster_id:
        return True
    lock = os.open(data_dir / _OF_SERVER / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _lock_server(path: Path) -> int | None:
    """Return the lock; None if the one that had it removed the directory, just now."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise Conflict(
            f"Another Jupyter Server (process {owner}) uses {path.parent}. Stop it first, or "
            "set BackendAI.data_dir to another directory."
        ) from None
    if os.fstat(lock).st_nlink == 0:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _read_facts(path: Path) -> Facts | None:
    return next((facts for name in _FACTS if (facts := _facts_in(path / name))), None)


def _facts_in(path: Path) -> Facts | None:
    try:
        return Facts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_facts(path: Path, facts: Facts) -> None:
    """Replace each file as a whole: it holds a password, and is read by whoever comes next."""
    text = json.dumps(asdict(facts))
    for name in reversed(_FACTS):
        partial = path / f"{name}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        except OSError as error:  # of a full disk, it does not say which
            raise OSError(error.errno, error.strerror, str(path / name)) from error
        partial.rename(path / name)


def _make_roots(facts: Facts) -> None:
    """Make the directories for sockets and for kernels' homes; a reboot may remove the former."""
    own_directory(Path(facts.run_root).parent, setting="BackendAI.runtime_dir")
    Path(facts.run_root).mkdir(mode=0o711, exist_ok=True)
    Path(facts.scratch_root).mkdir(mode=0o711, parents=True, exist_ok=True)
