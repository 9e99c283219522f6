"""A program of ours as a next version may be: ``python -m tests.next_version ...``.

Which one, ``NEXT_VERSION_OF`` says.  It writes more into its records than this version knows, and
calls itself another version.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from pydantic import model_validator

from backendai_jupyter.agent import agent
from backendai_jupyter.domain import wire
from backendai_jupyter.manager import reconciler

VERSION = "0.2.0"
PROGRAM = "NEXT_VERSION_OF"
ROOT = Path(__file__).parents[1]


class NextAssignment(wire.Assignment):
    colour: str = "blue"


class NextKernelReport(wire.KernelReport):
    mood: str = "good"


class NextAgentReport(wire.AgentReport):
    weather: str = "fine"
    kernels: tuple[NextKernelReport, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _grow(cls, fields: dict[str, Any]) -> dict[str, Any]:
        grown = tuple(NextKernelReport(**dict(kernel)) for kernel in fields["kernels"])
        return fields | {"kernels": grown, "version": VERSION}


def environment(program: str) -> dict[str, str]:
    """Return what a process needs in its environment in order to be ``program``."""
    return {PROGRAM: program, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    vars(reconciler)["Assignment"] = NextAssignment
    vars(agent)["AgentReport"] = NextAgentReport
    runpy.run_module(os.environ[PROGRAM], run_name="__main__", alter_sys=True)
