"""What somebody asks of a batch session, before its files are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from backendai_jupyter.domain.batch import MAX_RETRIES, RETRIABLE, RETRIED, End
from backendai_jupyter.domain.mounts import HOME
from backendai_jupyter.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What somebody asks for; paths begin with the name of a folder of his."""

    notebook: str = ""
    output: str = ""  # empty: beside the notebook
    parameters: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    workdir: str = ""  # empty: where the notebook is, or the home directory
    log: str = ""
    timeout_s: float | None = None
    retries: int = 0
    retry_on: tuple[End, ...] = RETRIED

    def __post_init__(self) -> None:
        if bool(self.notebook) == bool(self.command):
            raise InvalidInput("batch", "give either a notebook or a command")
        if self.command and self.parameters:
            raise InvalidInput("batch.parameters", "a command has arguments instead")
        if self.command and self.output:
            raise InvalidInput("batch.output", "only a notebook has one; see batch.log")
        if not 0 <= self.retries <= MAX_RETRIES:
            raise InvalidInput("batch.retries", f"{self.retries} is not from 0 to {MAX_RETRIES}")
        if wrong := [end for end in self.retry_on if end not in RETRIABLE]:
            known = ", ".join(RETRIABLE)
            raise InvalidInput("batch.retry_on", f"{wrong[0]!r} is never tried again; only {known}")
        for name in self.parameters:
            if not name.isidentifier():
                raise InvalidInput("batch.parameters", f"{name!r} is no name of a variable")

    @property
    def name(self) -> str:
        """What to call the session."""
        return PurePosixPath(self.notebook or self.command[0]).name

    @property
    def works_in(self) -> str | None:
        """The directory that it works in, as the file browser calls it; None for the home."""
        if self.workdir:
            return in_folders(self.workdir)
        directory = str(PurePosixPath(in_folders(self.notebook)).parent)
        return directory if self.notebook else None


def in_folders(path: str) -> str:
    """Return a path as the file browser has it, also for one as kernels have it."""
    return path.removeprefix(f"{HOME}/").strip("/")
