"""How the relay knows which cells wait for an answer."""

from __future__ import annotations

import json

import pytest

from backendai_jupyter.agent.relay import cells as module
from backendai_jupyter.agent.relay.cells import Cells
from backendai_jupyter.agent.relay.messages import DELIMITER

ROUTE = b"client"


def message(msg_type: str, msg_id: str, parent_id: str = "", session: str = "s") -> list[bytes]:
    header = {"msg_type": msg_type, "msg_id": msg_id, "session": session}
    parent = {"msg_id": parent_id} if parent_id else {}
    parts = [json.dumps(header).encode(), json.dumps(parent).encode(), b"{}", b"{}"]
    return [ROUTE, DELIMITER, b"signature", *parts]


def waiting(cells: Cells) -> list[str]:
    assert all(cell.route == (ROUTE,) for cell in cells.waiting())
    return [json.loads(cell.header)["msg_id"] for cell in cells.waiting()]


def ask(cells: Cells, *msg_ids: str) -> None:
    for msg_id in msg_ids:
        cells.observe(message("execute_request", msg_id))


def test_cells_wait_in_the_order_of_their_requests() -> None:
    cells = Cells()
    ask(cells, "a", "b", "c")
    assert waiting(cells) == ["a", "b", "c"]


def test_a_reply_ends_its_own_cell_only() -> None:
    cells = Cells()
    ask(cells, "a", "b")
    cells.observe(message("execute_reply", "x", parent_id="a"))
    assert waiting(cells) == ["b"]


def test_other_requests_do_not_count_as_cells() -> None:
    cells = Cells()
    cells.observe(message("complete_request", "a"))
    assert waiting(cells) == []


def test_the_kernels_session_is_learned_from_any_reply_and_from_no_request() -> None:
    cells = Cells()
    cells.observe(message("execute_request", "a", session="client"))
    assert cells.session == ""
    cells.observe(message("kernel_info_reply", "b", session="kernel"))
    assert cells.session == "kernel"


def test_the_cells_of_a_kernel_that_has_gone_wait_apart_from_later_ones() -> None:
    cells = Cells()
    ask(cells, "a", "b")
    cells.kernel_disconnected()
    ask(cells, "for the next")
    assert waiting(cells) == ["a", "b"]
    cells.forget()
    assert waiting(cells) == ["for the next"]


def test_a_new_kernel_is_not_asked_for_the_cells_of_the_former_one() -> None:
    cells = Cells()
    ask(cells, "a")
    cells.kernel_disconnected()
    ask(cells, "b")
    cells.kernel_connected()
    assert waiting(cells) == ["b"]


def test_a_new_kernel_has_a_session_of_its_own() -> None:
    cells = Cells()
    cells.observe(message("kernel_info_reply", "b", session="former"))
    cells.kernel_connected()
    assert cells.session == ""


def test_requests_that_are_never_answered_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", 3)
    cells = Cells()
    ask(cells, "a", "b", "c", "d")
    assert waiting(cells) == ["b", "c", "d"]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"no delimiter"],
        [ROUTE, DELIMITER, b"signature"],
        [ROUTE, DELIMITER, b"signature", b"not json", b"{}", b"{}", b"{}"],
        [ROUTE, DELIMITER, b"signature", b"[]", b"{}", b"{}", b"{}"],
        [ROUTE, DELIMITER, b"signature", b'{"msg_type": 3}', b"{}", b"{}", b"{}"],
        [ROUTE, DELIMITER, b"", b'{"msg_type": "execute_reply", "session": ""}', b"3", b"", b""],
    ],
)
def test_what_is_not_jupyters_is_ignored(frames: list[bytes]) -> None:
    cells = Cells()
    ask(cells, "a")
    cells.observe(frames)
    assert waiting(cells) == ["a"]
