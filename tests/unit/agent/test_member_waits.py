"""How long a cell waits for a member that does not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from backendai_jupyter.agent.kernel_lib.backendai_members import calls
from backendai_jupyter.agent.kernel_lib.backendai_members.calls import (
    ANSWER_S,
    FIRST_ANSWER_S,
    SAY_SO_S,
    Line,
    Listening,
)
from backendai_jupyter.agent.kernel_lib.backendai_members.place import Keys
from backendai_jupyter.agent.kernel_lib.backendai_members.protocol import Message
from backendai_jupyter.agent.kernel_lib.backendai_members.results import Result

MUTE = "127.77.0.1"  # nothing listens there


class Notes:
    """An audience that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def show(self, result: Result, message: Message) -> None: ...

    def note(self, host: str, text: str) -> None:
        self.told.append(f"{host} {text}")

    def end(self, result: Result) -> None: ...


class Waiting:
    """Cells for one mute member, whose time goes by when the test says so."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._keys = Keys(*zmq.curve_keypair())
        self._lines: list[Line] = []
        self.audience = Notes()

    def cell(self) -> tuple[Line, Listening]:
        listening = Listening()
        result = Result(MUTE)
        line = Line(self._context, self._keys, "1", result, self.audience, listening)
        self._lines.append(line)
        return line, listening

    def close(self) -> None:
        for line in self._lines:
            line.close()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    monkeypatch.setattr(calls, "_known", set())
    with zmq.Context() as context:
        waiting = Waiting(context)
        yield waiting
        waiting.close()


def status_after(line: Line, listening: Listening, listened_s: float) -> str:
    listening.for_s = listened_s
    line.look()
    return line.result.status


def test_the_first_answer_of_a_member_may_take_long_and_that_is_said(waiting: Waiting) -> None:
    line, listening = waiting.cell()
    assert status_after(line, listening, SAY_SO_S - 0.1) == "running"
    assert waiting.audience.told == []
    for listened_s in (SAY_SO_S + 0.1, ANSWER_S + 1, FIRST_ANSWER_S - 0.1):
        assert status_after(line, listening, listened_s) == "running"
    assert waiting.audience.told == [f"{MUTE} has not answered yet; the cell waits for it"]
    assert status_after(line, listening, FIRST_ANSWER_S + 0.1) == "lost"
    assert line.result.evalue == "it does not answer"


def test_a_member_that_was_waited_for_in_vain_is_given_up_sooner(waiting: Waiting) -> None:
    line, listening = waiting.cell()
    assert status_after(line, listening, FIRST_ANSWER_S + 0.1) == "lost"
    again, listening = waiting.cell()
    assert status_after(again, listening, ANSWER_S - 0.1) == "running"
    assert status_after(again, listening, ANSWER_S + 0.1) == "lost"
    assert len(waiting.audience.told) == 0


def test_a_cell_that_was_not_sent_is_interrupted_at_once(waiting: Waiting) -> None:
    line, listening = waiting.cell()
    line.stop()
    assert status_after(line, listening, 0.1) == "interrupted"
