"""Batch sessions on one machine in this process: a runtime whose runners say what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.runtime.base import ContainerSpec, ContainerState, Inside
from backendai_jupyter.domain.batch_request import BatchRequest
from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.records import ComputeSession
from backendai_jupyter.manager.batch_plan import planned
from backendai_jupyter.manager.requests import Request
from tests.fakes import RuntimeInMemory
from tests.unit.one_machine import ONE_CPU, OneMachine


class RuntimeWithRunners(RuntimeInMemory):
    """Its containers are runners of batches that are ready at once, unless ``is_slow``."""

    def __init__(self, *, is_slow: bool = False) -> None:
        super().__init__()
        self.is_slow = is_slow
        self.may_stop = asyncio.Event()
        self.may_stop.set()

    async def stop(self, kernel_id: str, *, grace_s: float) -> None:
        await self.may_stop.wait()
        await super().stop(kernel_id, grace_s=grace_s)

    async def start(self, spec: ContainerSpec) -> ContainerState:
        state = await super().start(spec)
        if not self.is_slow and (spec.run_dir / "batch_order.json").exists():
            self.says(spec.kernel_id, phase="ready")
        return state

    def says(self, kernel_id: str, **state: Any) -> None:
        """Let a runner say this of itself."""
        told = {"attempt": self.order(kernel_id)["attempt"], **state}
        (self._directory(kernel_id) / "batch_state.json").write_text(json.dumps(told))

    def ends(self, kernel_id: str, end: str, *, code: int, message: str = "So be it.") -> None:
        """Let a runner say how it ended, and its container end."""
        self.says(kernel_id, phase="ended", end=end, message=message, code=code)
        self.die(kernel_id, code)

    @property
    def has_ended(self) -> bool:
        """Whether the program of any container has."""
        return any(state.exit_code is not None for state in self.containers.values())

    def order(self, kernel_id: str) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads(
            (self._directory(kernel_id) / "batch_order.json").read_text()
        )
        return found

    def may_begin(self, kernel_id: str) -> bool:
        """Whether the attempt that was started last has been told to begin."""
        if kernel_id not in self.containers:
            return False
        attempt = self.order(kernel_id)["attempt"]
        return (self._directory(kernel_id) / f"batch_go-{attempt}").exists()

    def _directory(self, kernel_id: str) -> Path:
        return self.specs[kernel_id].run_dir


class RuntimeThatConfinesNothing(RuntimeWithRunners):
    """Its programs see the directories of the host."""

    def inside(self, spec_run_dir: Path, spec_home_dir: Path) -> Inside:
        return Inside(str(spec_run_dir), str(spec_home_dir))


async def ask_for_batch(
    machine: OneMachine, *, layers: tuple[Options, ...] = (), **batch: Any
) -> ComputeSession:
    """Ask for a session of type batch, by default for a command."""
    asked = BatchRequest(**(batch if "notebook" in batch else {"command": ("true",), **batch}))
    request = Request(
        kernelspec="backendai-python",
        image="python",
        argv=("python", "-f", "{connection_file}", "{kernel_output}"),
        defaults=Options(resources=ONE_CPU),
        layers=layers,
        contents_path=asked.works_in,
        name=asked.name,
    )
    viewer = machine.manager.viewer
    return await machine.manager.sessions.enqueue(
        request, viewer, plan=lambda new: planned(new, asked=asked, language="python")
    )
