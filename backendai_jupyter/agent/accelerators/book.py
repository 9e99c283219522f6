"""Who has which device: one file for each kernel, and nothing else remembers it.

The agents of one machine that share a database (a server, a few papermill runs) share its
devices too: each keeps the files of its own kernels, and reads those of all under one lock.
What ends an agent's kernels for good removes its directory, and with it what they had.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from backendai_jupyter.domain.wire import Record

log = logging.getLogger(__name__)

DIRECTORY = "devices"  # in the scratch root of each agent
_LOCK = "devices.lock"  # beside the scratch roots


class Piece(Record):
    """What a kernel has of one device."""

    device_id: str
    slot: str
    amount: Decimal


class Allotment(Record):
    """All that a kernel has of this node's devices."""

    kernel_id: str
    pieces: tuple[Piece, ...]


class DeviceBook:
    """The files of one agent, whose ``scratch_root`` lies beside those of the others.

    Every method blocks for a moment; whoever reads in order to write holds ``locked``.
    """

    def __init__(self, scratch_root: Path) -> None:
        self._own = scratch_root / DIRECTORY
        self._all = scratch_root.parent
        self._damaged: set[Path] = set()  # of which the log knows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other agents of this machine from giving devices away meanwhile."""
        lock = os.open(self._all / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read(self) -> dict[str, Allotment]:
        """Return what each kernel of this machine has, by its id."""
        paths = sorted(self._all.glob(f"*/{DIRECTORY}/*.json"))
        found = (self._read(path) for path in paths)
        return {allotment.kernel_id: allotment for allotment in found if allotment is not None}

    def write(self, allotment: Allotment) -> None:
        """Replace the kernel's as a whole; raises ``OSError``, and then the former one stays."""
        self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(allotment.kernel_id)
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(allotment.model_dump_json())
        except OSError as error:  # of a full disk, it does not say which
            raise OSError(error.errno, error.strerror, str(path)) from error
        partial.rename(path)

    def remove(self, kernel_id: str) -> None:
        """Forget what a kernel had; succeeds if it had nothing."""
        with contextlib.suppress(FileNotFoundError):
            self._path(kernel_id).unlink()

    def _path(self, kernel_id: str) -> Path:
        return self._own / f"{kernel_id}.json"

    def _read(self, path: Path) -> Allotment | None:
        try:
            found = Allotment.model_validate_json(path.read_text())
        except FileNotFoundError:
            return None  # its agent has just ended
        except (OSError, ValueError) as error:
            # The kernel's container says it too, and the agent's full pass asks it.
            if path not in self._damaged:
                log.warning("%s is damaged: %s", path, type(error).__name__)
            self._damaged.add(path)
            return None
        self._damaged.discard(path)
        return found if found.kernel_id == path.stem else None
