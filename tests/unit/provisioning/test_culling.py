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

from backendai_jupyter.domain.wire import Connection
from backendai_jupyter.provisioning.adoption import Adoption
from backendai_jupyter.provisioning.kernel_manager import BackendAIMappingKernelManager
from backendai_jupyter.provisioning.provisioner import BackendAIProvisioner

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class KernelsThatAreOnlyCulled(BackendAIMappingKernelManager):
    """Has one idle kernel, without clients of this server."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self.culled: list[str] = []
        self.adoption = cast("Adoption", object())  # in a cluster
        provisioner = BackendAIProvisioner(kernel_id="k")
        provisioner._connection = Connection(
            ip="127.0.0.1", shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5,
            key="", journal_socket=str(journal),
        )  # fmt: skip
        kernel: Any = SimpleNamespace(
            provisioner=provisioner,
            kernel_name="backendai-python",
            kernel_spec=SimpleNamespace(metadata={}),
            execution_state="idle",
            last_activity=LONG_AGO,
        )
        self._kernels["k"] = kernel

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
