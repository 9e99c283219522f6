"""What a loop says of its failures, and that it goes on."""

from __future__ import annotations

import asyncio

import pytest

from backendai_jupyter.supervisor import Loop, Supervisor
from tests.helpers import eventually


class Flaky:
    """Raises ``error`` at the first two steps."""

    def __init__(self, error: Exception) -> None:
        self.steps = 0
        self._error = error

    async def __call__(self) -> None:
        self.steps += 1
        if self.steps <= 2:
            raise self._error


async def test_a_period_may_change_while_the_loop_runs() -> None:
    steps, period_s, supervisor = 0, 600.0, Supervisor()

    async def step() -> None:
        nonlocal steps
        steps += 1

    loop = supervisor.loop(Loop("steady", step, period_s=lambda: period_s))
    await eventually(lambda: steps == 1)
    period_s = 0.01
    loop.poke()
    await eventually(lambda: steps > 4)
    await supervisor.close()


@pytest.mark.parametrize(
    ("error", "with_traceback"),
    [
        pytest.param(ConnectionError("it is away"), False, id="expected"),
        pytest.param(KeyError("a defect"), True, id="a defect"),
    ],
)
async def test_a_loop_goes_on_and_shows_a_traceback_only_of_defects(
    error: Exception, with_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    step, supervisor = Flaky(error), Supervisor()
    supervisor.loop(Loop("flaky", step, period_s=0.01, expected=(OSError,)))
    await eventually(lambda: step.steps > 4)
    await supervisor.close()
    said = [record for record in caplog.records if "flaky failed" in record.getMessage()]
    assert ["(1 in a row)" in said[0].getMessage(), "(2 in a row)" in said[1].getMessage()] == [
        True,
        True,
    ]
    assert [record.exc_info is not None for record in said] == [with_traceback] * 2
    assert asyncio.all_tasks() == {asyncio.current_task()}
