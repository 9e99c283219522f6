"""What an agent must still know of a kernel after it was killed: one file for each kernel.

A container says by itself which generation it runs and how it ended.  That it has answered,
through which ports clients reach it and which signals it got is only written here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from backendai_jupyter.agent.relay.client import Endpoint
from backendai_jupyter.domain.wire import Exit, Image, Record

log = logging.getLogger(__name__)

_PARTIAL = ".partial"


class Checkpoint(Record):
    """The last that was certain of one kernel; it holds its message key.

    ``endpoint`` is None until the relay has opened the channels.  ``exit`` is set once the
    end of the program of this ``generation`` has been told.
    """

    kernel_id: str
    generation: int
    image: Image
    key: str
    endpoint: Endpoint | None = None
    answered: bool = False
    signal_seq: int = 0
    exit: Exit | None = None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The files, in a directory that no kernel sees; every method blocks for a moment."""

    directory: Path

    def read(self, kernel_id: str) -> Checkpoint | None:
        """Return the kernel's; None if there is none, or none that can be read."""
        try:
            found = Checkpoint.model_validate_json(self._path(kernel_id).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, ValueError) as error:
            log.warning(
                "the checkpoint of kernel %s is damaged: %s", kernel_id, type(error).__name__
            )
            return None
        return found if found.kernel_id == kernel_id else None

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the kernel's as a whole; raises ``OSError``, and then the former one stays."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(checkpoint.kernel_id)
        partial = path.with_suffix(_PARTIAL)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(checkpoint.model_dump_json())
        partial.rename(path)

    def remove(self, kernel_id: str) -> None:
        """Remove the kernel's, and what a full disk or a kill has left of a newer one."""
        path = self._path(kernel_id)
        for one in (path.with_suffix(_PARTIAL), path):
            one.unlink(missing_ok=True)

    def kernels(self) -> set[str]:
        """Return the ids of all kernels that have one."""
        return {path.stem for path in self.directory.glob("*.json")}

    def all(self) -> Iterator[Checkpoint]:
        """Yield those that can be read."""
        for kernel_id in self.kernels():
            if (found := self.read(kernel_id)) is not None:
                yield found

    def _path(self, kernel_id: str) -> Path:
        return self.directory / f"{kernel_id}.json"
