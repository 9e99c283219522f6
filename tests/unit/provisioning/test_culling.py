"""A kernel is not culled while somebody uses it by way of another server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from jupyter_server._tz import utcnow

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.adoption import Adoption
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.place import Place
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class KernelsThatAreOnlyCulled(BackendAIMappingKernelManager):
    """Has idle kernels, without clients of this server."""

    def __init__(self, journal: Path | None = None, *, is_shared: bool = True) -> None:
        super().__init__()
        self.culled: list[str] = []
        self.adoption = cast("Adoption", SimpleNamespace(is_shared=is_shared))
        self.add("k", Place("k", "k", subs=("s",)), journal)

    def add(self, kernel_id: str, place: Place, journal: Path | None) -> None:
        provisioner = BackendAIProvisioner(kernel_id=kernel_id)
        provisioner.place = place
        provisioner._connection = Connection(
            ip="127.0.0.1", shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5,
            key="", journal_socket=str(journal) if journal else None,
        )  # fmt: skip
        kernel: Any = SimpleNamespace(
            provisioner=provisioner,
            kernel_name="backendai-python",
            kernel_spec=SimpleNamespace(metadata={}),
            execution_state="idle",
            last_activity=LONG_AGO,
        )
        self._kernels[kernel_id] = kernel

    async def shutdown_kernel(self, kernel_id: str, **_: Any) -> None:  # type: ignore[override]
        self.culled.append(kernel_id)


@pytest.fixture
async def journal(short_tmp_path: Path, readers: int) -> AsyncIterator[Path]:
    """A relay that says how many read; with -1 readers none that answers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if readers >= 0:
            writer.write(json.dumps({"state": "idle", "readers": readers}).encode() + b"\n")
        writer.close()

    path = short_tmp_path / "j"
    async with await asyncio.start_unix_server(answer, path):
        yield path


@pytest.mark.parametrize(("readers", "culled"), [(0, ["k"]), (1, []), (-1, [])])
async def test_only_what_nobody_uses_at_any_server_is_culled(
    journal: Path, culled: list[str]
) -> None:
    kernels = KernelsThatAreOnlyCulled(journal)
    kernels.cull_idle_timeout = 1
    await kernels.cull_kernel_if_idle("k")
    assert kernels.culled == culled


@pytest.mark.parametrize(
    ("change", "culled"),
    [
        pytest.param({}, ["k"], id="all are idle"),
        pytest.param({"execution_state": "busy"}, [], id="the other works"),
        pytest.param({"last_activity": utcnow()}, [], id="the other has just worked"),
    ],
)
async def test_kernels_of_one_session_are_idle_only_together(
    change: dict[str, object], culled: list[str]
) -> None:
    """F35: and the other one is never culled by itself."""
    kernels = KernelsThatAreOnlyCulled(is_shared=False)
    kernels.add("s", Place("k", "s", "sub1", is_sub=True), None)
    vars(kernels._kernels["s"]).update(change)
    kernels.cull_idle_timeout = 3600
    await kernels.cull_kernel_if_idle("s")
    await kernels.cull_kernel_if_idle("k")
    assert kernels.culled == culled
