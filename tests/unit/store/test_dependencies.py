"""Which sessions wait for which: written with them, met once, cancelled only while they wait."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.records import SYSTEM, ComputeSession, Parent, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.dependencies import DependencyStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.queue import QueueStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession


@pytest.fixture
def dependencies(database: Database) -> DependencyStore:
    return DependencyStore(database)


def parent_of(session: ComputeSession, *, is_met: bool = False) -> Parent:
    return Parent(session.id, session.name, is_met)


async def end(sessions: SessionStore, session: ComputeSession, *, now: float = 20.0) -> None:
    await sessions.terminate(session.id, SYSTEM, reason="", by="x", now=now)


async def test_a_session_is_found_by_its_id_or_its_name(
    dependencies: DependencyStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    first, second = [await make_session(name="train") for _ in range(2)]
    other = await make_session(name="other")

    async def found(text: str, viewer: Viewer = SYSTEM) -> list[str]:
        return [one.id for one in await dependencies.named(text, viewer)]

    assert await found(first.id) == [first.id]
    assert await found("other") == [other.id]
    assert await found("train") == sorted([first.id, second.id])
    assert await found("nothing") == []
    assert await found(first.id, Viewer("stranger")) == []
    assert await found("train", Viewer("stranger")) == []
    await end(sessions, first, now=20.0)
    assert await found("train") == [second.id]  # what lives is meant before what has ended
    await end(sessions, second, now=21.0)
    assert await found("train") == [second.id]  # the last one


async def test_what_waits_is_read_with_those_that_it_waits_for(
    database: Database,
    dependencies: DependencyStore,
    make_session: MakeSession,
) -> None:
    a, b, done = [await make_session(name=name) for name in ("a", "b", "done")]
    child = await make_session(
        parents=(parent_of(b), parent_of(a), parent_of(done, is_met=True)), now=11.0
    )

    async def unmet() -> set[Parent]:
        waiting = await QueueStore(database).waiting("here")
        return set(next(one for one in waiting if one.id == child.id).parents)

    assert await unmet() == {parent_of(a), parent_of(b)}
    for _ in range(2):
        await dependencies.meet(a.id, now=12.0)
    assert await unmet() == {parent_of(b)}
    parents, children = await dependencies.of(child.id, SYSTEM)
    assert [(one.name, one.is_met) for one in parents] == sorted(
        [("a", True), ("b", False), ("done", True)],
        key=lambda p: {"a": a, "b": b, "done": done}[p[0]].id,
    )
    assert children == []
    _, children = await dependencies.of(b.id, SYSTEM)
    assert [(one.id, one.status, one.is_met) for one in children] == [
        (child.id, Status.PENDING, False)
    ]
    assert await dependencies.of(b.id, Viewer("stranger")) == ([], [])


async def test_over_is_what_has_ended_while_others_wait_for_it(
    dependencies: DependencyStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    lives, ended, met = [await make_session(name=name) for name in ("lives", "ended", "met")]
    child = await make_session(parents=(parent_of(lives), parent_of(ended)))
    await make_session(parents=(parent_of(met),))
    await make_session(parents=(parent_of(ended),), cluster_id="elsewhere")
    gone = await make_session(parents=(parent_of(ended),))
    for one in (ended, met, gone):
        await end(sessions, one)
    await dependencies.meet(met.id, now=12.0)
    assert await dependencies.over("here") == {ended.id: [child.id]}


async def test_only_what_waits_is_cancelled(
    dependencies: DependencyStore, sessions: SessionStore, make_session: MakeSession
) -> None:
    child = await make_session()
    assert await dependencies.cancel(child.id, reason="Its parent failed.", by="d", now=20.0)
    cancelled = await sessions.get(child.id, SYSTEM)
    assert (cancelled.status, cancelled.status_reason) == (Status.CANCELLED, "Its parent failed.")
    assert not await dependencies.cancel(child.id, reason="again", by="d", now=21.0)
    steps = await sessions.history(child.id, SYSTEM)
    assert [step.after for step in steps] == [Status.PENDING, Status.CANCELLED]
