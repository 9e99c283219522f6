"""Reading a query string: what is unknown or malformed is refused by name."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import InvalidInput
from backendai_jupyter.web.models import MAX_SESSIONS
from backendai_jupyter.web.operation import Nothing, read_query
from backendai_jupyter.web.session_filters import SessionFilter


def test_a_filter_may_name_several_statuses() -> None:
    found = read_query(SessionFilter, {"status": [b"RUNNING", b"PENDING"], "limit": [b"3"]})
    assert found == SessionFilter(status=[Status.RUNNING, Status.PENDING], limit=3)


def test_without_a_query_everything_is_wanted() -> None:
    assert read_query(SessionFilter, {}) == SessionFilter(status=[], limit=MAX_SESSIONS)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"stat": [b"RUNNING"]}, "stat", id="unknown parameter"),
        pytest.param({"status": [b"running"]}, "status", id="unknown status"),
        pytest.param({"status": [b"RUNNING", b"x"]}, "status", id="one of two is unknown"),
        pytest.param({"limit": [b"many"]}, "limit", id="not a number"),
        pytest.param({"limit": [b"0"]}, "limit", id="too small"),
        pytest.param({"limit": [b"1001"]}, "limit", id="too large"),
        pytest.param({"123": [b"456"]}, "123", id="a number with a value"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(arguments: dict[str, list[bytes]], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_query(SessionFilter, arguments)
    assert caught.value.field == field


def test_what_jupyter_itself_adds_to_a_query_is_let_through() -> None:
    arguments = {"token": [b"t"], "_xsrf": [b"x"], "1795473760195": [b""]}
    read_query(Nothing, arguments)
