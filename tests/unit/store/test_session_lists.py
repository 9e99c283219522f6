"""Lists of sessions: filters, and pages that neither lose nor repeat one."""

from __future__ import annotations

import pytest

from backendai_jupyter.domain.records import SYSTEM, Selection, User, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import add_user


async def ids(sessions: SessionStore, viewer: Viewer = SYSTEM, **wanted: object) -> list[str]:
    return [one.id for one in await sessions.list(viewer, Selection(**wanted))]  # type: ignore[arg-type]


async def test_each_filter_keeps_what_it_names(
    database: Database, sessions: SessionStore, make_session: MakeSession
) -> None:
    ann = await add_user(database, "ann")
    old = await make_session(id="old", name="nb", now=1.0)
    await make_session(id="gpu", resource_group="gpu", now=2.0)
    await make_session(id="hers", owner=ann, now=3.0)
    await sessions.terminate(old.id, SYSTEM, reason="", by="x", now=9.0)
    assert await ids(sessions) == ["hers", "gpu", "old"]
    assert await ids(sessions, oldest_first=True) == ["old", "gpu", "hers"]
    assert await ids(sessions, statuses=frozenset({Status.CANCELLED})) == ["old"]
    assert await ids(sessions, resource_group="gpu") == ["gpu"]
    assert await ids(sessions, owner=ann) == ["hers"]
    assert await ids(sessions, name="nb") == ["old"]
    assert await ids(sessions, since=2.0) == ["hers", "gpu"]
    assert await ids(sessions, Viewer(ann)) == ["hers"]
    assert await ids(sessions, Viewer(ann), owner=old.owner) == []


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_pages_are_the_whole_list_whatever_comes_and_ends_meanwhile(
    sessions: SessionStore, make_session: MakeSession, oldest_first: bool
) -> None:
    made = [(f"s{i}", float(at)) for i, at in enumerate([5, 3, 3, 3, 1, 1, 4])]
    for name, at in made:
        await make_session(id=name, now=at)
    whole = await ids(sessions, oldest_first=oldest_first)
    assert sorted(whole) == sorted(name for name, _ in made)
    pages: list[str] = []
    while page := await ids(
        sessions, oldest_first=oldest_first, limit=2, after=pages[-1] if pages else None
    ):
        pages += page
        await make_session(now=0.0 if oldest_first else 99.0)  # before the page
    assert pages == whole


async def test_a_page_after_what_is_not_seen_is_not_found(
    database: Database, owner: User, sessions: SessionStore, make_session: MakeSession
) -> None:
    session = await make_session()
    with pytest.raises(NotFound, match=session.id):
        await sessions.list(Viewer("stranger"), Selection(after=session.id))
