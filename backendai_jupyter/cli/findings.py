"""What a check of this machine is given, and what it may find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel
from traitlets.config import Config

from backendai_jupyter.config import BackendAI, BackendAIAgent

KERNELSPEC_PREFIX = "backendai-"


class State(StrEnum):
    OK = "ok"
    WARN = "warn"  # something is missing that one can do without
    FAIL = "fail"


class Finding(BaseModel):
    """What a check found; ``advice`` says what to do about it, if anything."""

    check: str
    state: State
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding before it knows the name of its check."""

    state: State
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    manager: BackendAI
    agent: BackendAIAgent

    is_agent: bool = False  # and nothing else: a node without a Jupyter Server

    @classmethod
    def of(cls, config: Config, *, is_agent: bool = False) -> Settings:
        return cls(BackendAI(config=config), BackendAIAgent(config=config), is_agent)

    @property
    def cluster(self) -> BackendAI | BackendAIAgent | None:
        """Who is configured to share stores with others; None on a machine of its own.

        Raises ``InvalidInput`` where only a part of it is configured.
        """
        if self.is_agent:
            self.agent.check_cluster()
            return self.agent
        return self.manager if self.manager.in_cluster else None

    @property
    def runtime_dir(self) -> Path:
        return Path(self.agent.runtime_dir if self.is_agent else self.manager.runtime_dir)

    @property
    def data_dir(self) -> Path:
        return Path(self.manager.data_dir)
