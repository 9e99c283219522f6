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

    @classmethod
    def of(cls, config: Config) -> Settings:
        return cls(BackendAI(config=config), BackendAIAgent(config=config))

    @property
    def data_dir(self) -> Path:
        return Path(self.manager.data_dir)
