"""Jupyter's own sessions: one holds a path, others may share it, and only their owner sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backendai_jupyter.domain.records import JupyterSession, User, Viewer
from backendai_jupyter.domain.states import Status
from backendai_jupyter.errors import LostRace, NotFound
from backendai_jupyter.store.agents import AgentStore
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.jupyter_sessions import JupyterSessionStore
from backendai_jupyter.store.sessions import SessionStore
from tests.unit.store.conftest import MakeSession
from tests.unit.store.samples import add_user


@pytest.fixture
def store(database: Database) -> JupyterSessionStore:
    return JupyterSessionStore(database)


@pytest.fixture
def viewer(owner: User) -> Viewer:
    return Viewer(owner.id)


def session_of(viewer: Viewer, id: str, **fields: Any) -> JupyterSession:
    fields = {"path": f"data/{id}.ipynb", "name": "a.ipynb", "type": "notebook", **fields}
    return JupyterSession(id=id, owner=viewer.user_id, **{"kernel_id": f"k-{id}", **fields})


async def test_sessions_are_found_by_their_fields_oldest_first(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    two = await store.add(session_of(viewer, "2"), now=2.0)
    one = await store.add(session_of(viewer, "1", name=None, type=None), now=1.0)
    assert await store.find(viewer) == (one, two)
    assert await store.find(viewer, id="2") == (two,)
    assert await store.find(viewer, path="data/1.ipynb", kernel_id="k-1") == (one,)
    assert await store.find(viewer, path="data/1.ipynb", kernel_id="k-2") == ()


async def test_whoever_adds_to_a_path_that_is_held_gets_the_session_that_holds_it(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    first = await store.add(session_of(viewer, "1", path="p"), now=1.0)
    assert await store.add(session_of(viewer, "2", path="p"), now=2.0) == first
    assert await store.find(viewer) == (first,)


async def test_of_many_who_add_to_a_path_at_once_all_get_one(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    adding = (store.add(session_of(viewer, str(i), path="p"), now=i) for i in range(8))
    got = await asyncio.gather(*adding)
    assert len(set(got)) == 1
    assert await store.find(viewer) == (got[0],)


async def test_sessions_without_a_path_are_each_their_own(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    for id in ("1", "2"):
        assert (await store.add(session_of(viewer, id, path=None), now=1.0)).id == id
    assert (await store.add(session_of(viewer, "1", path=None, name="b"), now=2.0)).name != "b"


async def test_a_session_may_get_the_path_of_another_which_is_found_first(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    """As JupyterLab does when a kernel is chosen while the one before it still ends."""
    made = await store.add(session_of(viewer, "new", path="made-up"), now=1.0)
    old = await store.add(session_of(viewer, "old", path="p"), now=2.0)
    moved = await store.change(made.id, viewer, {"path": "p", "name": "b.ipynb"})
    assert (moved.path, moved.name, moved.kernel_id) == ("p", "b.ipynb", "k-new")
    assert await store.find(viewer, path="p") == (old, moved)
    await store.remove(old)
    assert await store.find(viewer, path="p") == (moved,)


async def test_a_path_is_free_once_its_session_has_another_or_is_gone(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    one = await store.add(session_of(viewer, "1", path="p"), now=1.0)
    await store.change(one.id, viewer, {"path": "q"})
    two = await store.add(session_of(viewer, "2", path="p"), now=2.0)
    assert two.id == "2"
    await store.remove(two)
    assert (await store.add(session_of(viewer, "3", path="p"), now=3.0)).id == "3"
    assert (await store.add(session_of(viewer, "4", path="q"), now=4.0)).id == "1"


async def test_one_that_may_share_is_written_beside_the_one_that_holds_the_path(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    await store.add(session_of(viewer, "1", path="p"), now=1.0)
    await store.add(session_of(viewer, "2", path="p"), now=2.0, may_share=True)
    assert [s.id for s in await store.find(viewer, path="p")] == ["1", "2"]


async def test_a_session_that_has_got_another_kernel_is_not_removed_for_its_former_one(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    before = await store.add(session_of(viewer, "1"), now=1.0)
    after = await store.change("1", viewer, {"kernel_id": "another"})
    await store.remove(before)
    assert await store.find(viewer) == (after,)
    await store.remove(after)
    await store.remove(after)
    assert await store.find(viewer) == ()


async def test_a_path_may_be_longer_than_a_key_of_a_database(
    store: JupyterSessionStore, viewer: Viewer
) -> None:
    path = "ü" * 20_000
    assert (await store.add(session_of(viewer, "1", path=path), now=1.0)).path == path
    assert (await store.add(session_of(viewer, "2", path=path), now=2.0)).id == "1"


async def test_nobody_sees_or_changes_the_sessions_of_another(
    store: JupyterSessionStore, viewer: Viewer, database: Database
) -> None:
    stranger = Viewer(await add_user(database, "eve"))
    mine = await store.add(session_of(viewer, "1", path="p"), now=1.0)
    assert await store.find(stranger) == ()
    with pytest.raises(NotFound, match="1"):
        await store.change("1", stranger, {"path": "q"})
    await store.remove(session_of(stranger, "1"))
    with pytest.raises(LostRace):
        await store.add(session_of(stranger, "1", path="p"), now=2.0)
    hers = await store.add(session_of(stranger, "2", path="p"), now=2.0)
    assert hers.id == "2"
    assert await store.find(viewer) == (mine,)


async def test_a_kernel_lives_until_the_end_of_its_session_is_asked_for(
    store: JupyterSessionStore,
    viewer: Viewer,
    database: Database,
    sessions: SessionStore,
    make_session: MakeSession,
    agents: AgentStore,
) -> None:
    stranger = Viewer(await add_user(database, "eve"))
    session = await make_session(jupyter_kernel_id="k")
    unnamed = await make_session()
    assert await store.kernel_lives("k", viewer)
    assert await store.kernel_lives(unnamed.id, viewer)
    assert not await store.kernel_lives(session.id, viewer)
    assert not await store.kernel_lives("k", stranger)
    await sessions.claim(session.id, {session.main.id: "a1"}, reason="", by="test", now=1.0)
    for status in (Status.CREATING, Status.RUNNING, Status.RESTARTING):
        await _move(sessions, session.main.id, status)
        assert await store.kernel_lives("k", viewer)
    for status in (Status.TERMINATING, Status.TERMINATED):
        await _move(sessions, session.main.id, status)
        assert not await store.kernel_lives("k", viewer)


async def test_a_kernel_beside_main1_lives_until_its_own_end_is_asked_for(
    store: JupyterSessionStore,
    viewer: Viewer,
    sessions: SessionStore,
    make_session: MakeSession,
    agents: AgentStore,
) -> None:
    session = await make_session(jupyter_kernel_id="k", cluster_size=2)
    other = session.kernel("sub1").id
    assert await store.kernel_lives(other, viewer)
    placement = {kernel.id: "a1" for kernel in session.kernels}
    await sessions.claim(session.id, placement, reason="", by="test", now=1.0)
    await _move(sessions, other, Status.TERMINATING)
    assert not await store.kernel_lives(other, viewer)


async def _move(sessions: SessionStore, kernel_id: str, status: Status) -> None:
    await sessions.move(kernel_id, status, reason="", by="test", now=1.0)
