"""What a kernel is said to be at, to those who come in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from backendai_jupyter.agent.relay.chronicle import Chronicle
from backendai_jupyter.agent.relay.messages import Signer
from backendai_jupyter.agent.relay.records import Kind

SIGNER = Signer("key")
CELL = b'{"msg_id": "cell", "msg_type": "execute_request"}'
INFO = b'{"msg_id": "info", "msg_type": "kernel_info_request"}'
REQUEST = (Kind.REQUEST, [b"client", CELL])


def status(state: str, parent: bytes) -> tuple[Kind, list[bytes]]:
    content = {"execution_state": state}
    return Kind.IOPUB, SIGNER.build("status", content, session="kernel", parent=parent)[1:]


@pytest.mark.parametrize(
    ("messages", "occupation"),
    [
        ([], "starting"),
        ([status("starting", b"{}")], "starting"),
        ([status("busy", INFO)], "idle"),
        ([status("idle", INFO)], "idle"),
        ([REQUEST, status("busy", CELL)], "busy"),
        ([REQUEST, status("busy", CELL), status("idle", INFO)], "busy"),
        ([REQUEST, status("busy", CELL), status("idle", CELL)], "idle"),
    ],
)
def test_a_kernel_is_busy_with_cells_and_with_nothing_else(
    tmp_path: Path, messages: Sequence[tuple[Kind, list[bytes]]], occupation: str
) -> None:
    chronicle = Chronicle(tmp_path / "journal", 1 << 20, SIGNER, keep_from=lambda: None)
    for kind, frames in messages:
        chronicle.take(kind, frames)
    chronicle.commit()
    assert chronicle.occupation == occupation
    chronicle.close()
