"""What ``session`` commands show of the answers they get, and how they find a session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backendai_jupyter.cli.api import find_session
from backendai_jupyter.cli.session import history_rows, kernel_facts, session_facts, session_rows
from backendai_jupyter.domain.records import Step
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import InvalidInput, NotFound
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.models import (
    Agent,
    AgentList,
    SessionDetail,
    SessionList,
    detail_of,
    session_of,
)
from backendai_jupyter.web.session_filters import SessionFilter
from tests.records import make_kernel, make_session

UUID = "a0ef1c94-f85c-406d-9b7a-dfd88d5208d4"


class ApiOf:
    """An ``Api`` that knows the sessions it was made with."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    async def sessions(self, wanted: SessionFilter) -> SessionList:
        return SessionList([session_of(make_session(session_id)) for session_id in self._ids])

    async def session(self, session_id: str) -> SessionDetail:
        return detail_of(make_session(session_id), ())

    async def log(self, session_id: str, host: str = "main1") -> str:
        return ""

    async def terminate(self, session_id: str) -> None: ...

    async def agents(self) -> AgentList:
        return AgentList([])

    async def agent(self, agent_id: str) -> Agent:
        raise NotFound(agent_id)

    async def drain(self, agent_id: str, *, is_drained: bool) -> Agent:
        raise NotFound(agent_id)

    async def images(self) -> ImageList:
        return ImageList([])


async def test_the_beginning_of_an_id_is_enough() -> None:
    assert await find_session(ApiOf("abc1", "abd2"), "abd") == "abd2"


async def test_a_whole_id_needs_no_list() -> None:
    assert await find_session(ApiOf(), UUID) == UUID


async def test_a_beginning_of_two_ids_names_both() -> None:
    with pytest.raises(InvalidInput, match="abc1 and abd2"):
        await find_session(ApiOf("abc1", "abd2"), "ab")


async def test_a_beginning_of_no_id_is_not_found() -> None:
    with pytest.raises(NotFound, match="no session x"):
        await find_session(ApiOf("abc1"), "x")


def test_a_row_says_why_a_session_waits() -> None:
    waiting = replace(make_session(UUID, created_at=40.0), status_reason="no room for mem 9 GiB")
    [row] = session_rows([session_of(waiting)], now=100.0)
    assert row == (
        "a0ef1c94",
        UUID,
        "PENDING",
        "",
        "cpu 1, mem 1 GiB",
        "",
        "",
        "1 minute",
        "no room for mem 9 GiB",
    )


def test_a_session_of_several_kernels_says_how_many_and_how_they_belong_together() -> None:
    kernels = tuple(
        replace(make_kernel(name), role=role) for name, role in (("m", "main"), ("s", "sub"))
    )
    shown = detail_of(replace(make_session(UUID), kernels=kernels), ())
    [row] = session_rows([shown], now=100.0)
    assert row[4] == "2 x cpu 1, mem 1 GiB"
    assert ("kernels", "2, single-node, failure policy end") in session_facts(shown)


def test_a_kernel_that_ended_says_why() -> None:
    ending = Exit(reason=ExitReason.SIGNALLED, message="It was ended by SIGSEGV.", code=139)
    kernel = replace(make_kernel(status=Status.RESTARTING, agent_id="a1"), exit=ending)
    [shown] = session_of(replace(make_session(), kernels=(kernel,))).kernels
    assert ("ended", "signalled: It was ended by SIGSEGV.") in kernel_facts(shown)


def test_the_history_calls_the_owner_so() -> None:
    steps = (
        Step("s", None, Status.PENDING, "", "u", 1.0),
        Step("s", Status.PENDING, Status.SCHEDULED, "placed", "scheduler", 2.0),
    )
    rows = history_rows(detail_of(make_session("s"), steps))
    assert [row[1:] for row in rows] == [
        ("main1", "PENDING", "its owner", ""),
        ("main1", "SCHEDULED", "scheduler", "placed"),
    ]
