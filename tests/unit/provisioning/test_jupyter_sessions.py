"""Jupyter's sessions through two servers over one database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tornado import web

from backendai_jupyter.domain.records import JupyterSession, User, Viewer
from backendai_jupyter.errors import InvalidInput, Unavailable
from backendai_jupyter.provisioning.backends import BACKENDS
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.jupyter_sessions import JupyterSessionStore
from tests.unit.provisioning.servers import LOCAL, OURS, SharedBackend, make_server

PATH = "data/a.ipynb"


class TwoServers:
    """``one`` and ``two`` are session managers; each has kernels of its own."""

    def __init__(self, backend: SharedBackend) -> None:
        self.backend = backend
        self.one, self.kernels = make_server(backend)
        self.two, self.other_kernels = make_server(backend)

    def register(self, model: dict[str, Any]) -> None:
        """Let the second server know a kernel that the first has started."""
        self.other_kernels.names[model["kernel"]["id"]] = OURS

    async def started(self, path: str = PATH, kernel_name: str = OURS) -> dict[str, Any]:
        return await self.one.create_session(path, "a.ipynb", "notebook", kernel_name)


@pytest.fixture
def servers(database: Database, owner: User) -> Iterator[TwoServers]:
    backend = SharedBackend(database, Viewer(owner.id))
    BACKENDS.serve(backend.as_backend())
    yield TwoServers(backend)
    BACKENDS.serve(None)


async def test_a_session_is_seen_through_the_other_server_at_once(servers: TwoServers) -> None:
    made = await servers.started()
    assert made == {
        "id": made["id"],
        "path": PATH,
        "name": "a.ipynb",
        "type": "notebook",
        "notebook": {"path": PATH, "name": "a.ipynb"},
        "kernel": {"id": made["kernel"]["id"], "name": OURS},
    }
    servers.register(made)
    assert await servers.two.list_sessions() == [made]
    assert await servers.two.session_exists(PATH)
    for wanted in (
        {"session_id": made["id"]},
        {"path": PATH},
        {"kernel_id": made["kernel"]["id"], "name": "a.ipynb", "type": "notebook"},
    ):
        assert await servers.two.get_session(**wanted) == made


async def test_what_is_changed_or_ended_through_one_is_so_through_the_other(
    servers: TwoServers,
) -> None:
    made = await servers.started()
    servers.register(made)
    await servers.two.update_session(made["id"], path="data/b.ipynb", name="b.ipynb")
    kernel_id = made["kernel"]["id"]
    assert servers.other_kernels.env[kernel_id] == "/srv/b.ipynb"
    assert not await servers.one.session_exists(PATH)
    assert (await servers.one.get_session(session_id=made["id"]))["path"] == "data/b.ipynb"
    another = await servers.kernels.start_kernel(kernel_name=OURS, kernel_id=None)
    servers.other_kernels.names[another] = OURS
    await servers.one.update_session(made["id"], kernel_id=another)
    assert (await servers.two.list_sessions())[0]["kernel"]["id"] == another
    await servers.two.delete_session(made["id"])
    assert await servers.one.list_sessions() == []
    assert servers.other_kernels.ended == [another]


async def test_of_two_servers_that_start_a_session_at_once_one_gives_its_kernel_up(
    servers: TwoServers,
) -> None:
    servers.other_kernels.gate.clear()
    late = asyncio.create_task(servers.two.create_session(PATH, "a.ipynb", "notebook", OURS))
    made = await servers.started()
    servers.register(made)
    servers.other_kernels.gate.set()
    assert await late == made
    assert await servers.one.list_sessions() == [made]
    assert len(servers.other_kernels.ended) == 1
    assert servers.kernels.ended == []


async def test_a_kernel_that_was_there_before_is_not_given_up(servers: TwoServers) -> None:
    made = await servers.started()
    kernel_id = await servers.kernels.start_kernel(kernel_name=OURS, kernel_id=None)
    assert await servers.one.create_session(PATH, kernel_id=kernel_id) == made
    assert servers.kernels.ended == []
    beside = await servers.one.create_session("console", kernel_id=kernel_id, type="console")
    assert beside["kernel"]["id"] == kernel_id
    assert "notebook" not in beside


async def test_a_new_kernel_may_be_given_its_id(servers: TwoServers) -> None:
    made = await servers.one.create_session(PATH, kernel_name=OURS, kernel_id="mine")
    assert made["kernel"]["id"] == "mine"


async def test_a_kernel_that_only_the_other_server_can_reach_costs_no_session(
    servers: TwoServers,
) -> None:
    made = await servers.started()
    assert await servers.two.list_sessions() == []
    assert not await servers.two.kernel_culled(made["kernel"]["id"])
    with pytest.raises(Unavailable, match="cannot be reached from this server"):
        await servers.two.get_session(session_id=made["id"])
    assert await servers.one.list_sessions() == [made]


async def test_a_session_whose_kernel_is_gone_for_good_is_removed(servers: TwoServers) -> None:
    paths = ("a", "b", "c", "d")
    made = {path: await servers.started(path) for path in paths}
    for session in made.values():
        await servers.kernels.shutdown_kernel(session["kernel"]["id"])
    with pytest.raises(web.HTTPError, match="404"):
        await servers.two.get_session(session_id=made["a"]["id"])
    assert not await servers.two.session_exists("b")
    (row,) = await servers.one._find(path="c")
    with pytest.raises(KeyError, match="culled or died"):
        await servers.one.row_to_model(row)
    assert [s.path for s in await servers.one._find()] == ["d"]
    assert await servers.two.list_sessions() == []
    assert await servers.one._find() == []


async def test_a_path_whose_session_has_lost_its_kernel_gets_a_new_one(
    servers: TwoServers,
) -> None:
    first = await servers.started()
    await servers.kernels.shutdown_kernel(first["kernel"]["id"])
    second = await servers.started()
    assert second["id"] != first["id"]
    assert await servers.one.list_sessions() == [second]


async def test_a_session_moves_to_a_path_as_jupyterlab_does_it(servers: TwoServers) -> None:
    old = await servers.started()
    new = await servers.started("data/made-up")
    await servers.one.update_session(new["id"], path=PATH)
    await servers.one.delete_session(old["id"])
    assert (await servers.one.get_session(path=PATH))["id"] == new["id"]


async def test_what_has_a_local_kernel_is_its_servers_own(servers: TwoServers) -> None:
    made = await servers.started(kernel_name=LOCAL)
    assert await servers.one.list_sessions() == [made]
    assert await servers.one.get_session(path=PATH) == made
    assert await servers.two.list_sessions() == []
    assert not await servers.two.session_exists(PATH)
    again = await servers.started(kernel_name=LOCAL)
    assert again == made
    assert len(servers.kernels.ended) == 1
    await servers.one.delete_session(made["id"])
    assert await servers.one.list_sessions() == []


async def test_a_session_keeps_its_id_between_a_local_kernel_and_one_of_ours(
    servers: TwoServers,
) -> None:
    made = await servers.started(kernel_name=LOCAL)
    ours = await servers.kernels.start_kernel(kernel_name=OURS, kernel_id="ours")
    servers.other_kernels.names[ours] = OURS
    await servers.one.update_session(made["id"], kernel_id=ours)
    (seen,) = await servers.two.list_sessions()
    assert (seen["id"], seen["path"], seen["kernel"]["id"]) == (made["id"], PATH, ours)
    await servers.one.update_session(made["id"], kernel_id=made["kernel"]["id"], name="b.ipynb")
    assert await servers.two.list_sessions() == []
    (back,) = await servers.one.list_sessions()
    assert (back["id"], back["name"], back["kernel"]) == (made["id"], "b.ipynb", made["kernel"])


async def test_a_database_that_is_away_costs_nothing(servers: TwoServers) -> None:
    made = await servers.started()
    servers.backend.broken = True
    for attempt in (
        servers.one.list_sessions(),
        servers.one.session_exists(PATH),
        servers.one.update_session(made["id"], name="b"),
        servers.one.delete_session(made["id"]),
    ):
        with pytest.raises(Unavailable):
            await attempt
    servers.backend.broken = False
    assert await servers.one.list_sessions() == [made]
    assert servers.kernels.ended == []


class StoreThatIsFull(JupyterSessionStore):
    async def add(self, session: JupyterSession, **_: Any) -> JupyterSession:
        raise Unavailable("The disk is full.")


class StoreThatHangs(JupyterSessionStore):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.entered = asyncio.Event()

    async def add(self, session: JupyterSession, **_: Any) -> JupyterSession:
        self.entered.set()
        await asyncio.Event().wait()
        return session


async def test_a_kernel_whose_session_cannot_be_written_is_ended(
    servers: TwoServers, database: Database
) -> None:
    servers.backend.manager.jupyter_sessions = StoreThatIsFull(database)
    with pytest.raises(Unavailable, match="full"):
        await servers.started()
    assert (servers.kernels.names, len(servers.kernels.ended)) == ({}, 1)


async def test_a_kernel_whose_requester_has_gone_is_ended(
    servers: TwoServers, database: Database
) -> None:
    servers.backend.manager.jupyter_sessions = store = StoreThatHangs(database)
    asked = asyncio.create_task(servers.started())
    await asyncio.wait_for(store.entered.wait(), 5)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (servers.kernels.names, len(servers.kernels.ended)) == ({}, 1)


async def test_what_is_malformed_is_refused_before_a_kernel_starts(servers: TwoServers) -> None:
    name: Any = {"not": "a name"}
    with pytest.raises(InvalidInput, match="name"):
        await servers.one.create_session(PATH, name, "notebook", OURS)
    assert servers.kernels.names == {}
    made = await servers.started()
    with pytest.raises(InvalidInput, match="path"):
        await servers.one.update_session(made["id"], path=7)
    with pytest.raises(TypeError, match="No such column"):
        await servers.one.update_session(made["id"], colour="red")
    with pytest.raises(TypeError, match="No such column"):
        await servers.one.get_session(colour="red")
    with pytest.raises(TypeError, match="column"):
        await servers.one.get_session()


async def test_an_unknown_session_is_not_found(servers: TwoServers) -> None:
    for attempt in (
        servers.one.get_session(session_id="x"),
        servers.one.update_session("x", name="b"),
        servers.one.delete_session("x"),
    ):
        with pytest.raises(web.HTTPError, match="session_id='x'"):
            await attempt
