"""Named steps at which a test holds a process: what they do when on, and that they are off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backendai_jupyter import points
from tests.acceptance.crash_points import Points

WITHIN_S = 10.0


@pytest.fixture
async def listening(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Points]:
    path = short_tmp_path / "points"
    monkeypatch.setattr(points, "_LISTENER", str(path))
    async with Points.listen(path) as listening:
        yield listening


async def test_an_armed_point_holds_its_task_and_no_other_until_it_is_released(
    listening: Points,
) -> None:
    listening.arm("here")
    held = asyncio.ensure_future(points.reached("here"))
    assert await listening.until_held(within_s=WITHIN_S)
    await points.reached("elsewhere")
    await points.reached("here")  # the second to come is not held
    assert not held.done()
    listening.release()
    await asyncio.wait_for(held, WITHIN_S)
    assert listening.seen == ["here", "elsewhere", "here"]


async def test_a_thread_is_held_as_well(listening: Points) -> None:
    listening.arm("here")
    held = asyncio.ensure_future(asyncio.to_thread(points.reached_in_thread, "here"))
    assert await listening.until_held(within_s=WITHIN_S)
    assert not held.done()
    listening.release()
    await asyncio.wait_for(held, WITHIN_S)


async def test_a_point_goes_on_if_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "_LISTENER", str(tmp_path / "nobody"))
    await points.reached("here")
    points.reached_in_thread("here")


async def test_points_are_off_unless_they_are_asked_for() -> None:
    assert points._LISTENER is None
    await points.reached("here")
    points.reached_in_thread("here")
