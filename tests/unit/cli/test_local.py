"""Answers without a server: what other processes of this machine wrote into the database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from traitlets.config import Config

from backendai_jupyter.cli.local import LocalApi
from backendai_jupyter.domain.records import SYSTEM, NewSession
from backendai_jupyter.domain.states import Status
from backendai_jupyter.domain.wire import Exit, ExitReason
from backendai_jupyter.errors import NotFound
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from backendai_jupyter.web.session_filters import SessionFilter
from tests.records import SMALL


class Another:
    """Another process of this machine, as far as the database sees it."""

    def __init__(self, store: SessionStore, owner: str) -> None:
        self.store = store
        self._owner = owner

    async def enqueue(self, session_id: str, *, now: float = 1.0) -> None:
        new = NewSession(
            id=session_id,
            owner=self._owner,
            name="a notebook",
            cluster_id="another",
            kernelspec="backendai-python",
            image="python",
            argv=("python",),
            env={},
            slots=SMALL,
            mounts=(),
            workdir="/home/work",
            kernel_id=session_id,
        )
        await self.store.create(new, now=now)


def is_there(path: str) -> bool:
    return Path(path).exists()


@pytest.fixture
def config(short_tmp_path: Path) -> Config:
    config = Config()
    config.BackendAI.data_dir = str(short_tmp_path / "data" / "backendai")
    return config


@pytest.fixture
async def another(config: Config) -> AsyncIterator[Another]:
    url = f"sqlite+aiosqlite:///{config.BackendAI.data_dir}/backendai.sqlite"
    await upgrade(url)
    database = await Database.open(url)
    owner = await UserStore(database).ensure_owner(now=0.0)
    yield Another(SessionStore(database), owner.id)
    await database.close()


@pytest.fixture
async def api(config: Config) -> AsyncIterator[LocalApi]:
    local = LocalApi(config)
    yield local
    await local.close()


async def test_merely_looking_makes_no_database(api: LocalApi, config: Config) -> None:
    assert (await api.sessions(SessionFilter())).root == []
    assert not is_there(config.BackendAI.data_dir)


async def test_sessions_of_other_processes_are_listed(api: LocalApi, another: Another) -> None:
    await another.enqueue("first", now=1.0)
    await another.enqueue("second", now=2.0)
    assert [one.id for one in (await api.sessions(SessionFilter())).root] == ["second", "first"]
    assert [one.id for one in (await api.sessions(SessionFilter(limit=1))).root] == ["second"]
    running = SessionFilter(status=[Status.RUNNING])
    assert (await api.sessions(running)).root == []


async def test_a_session_is_shown_with_its_history(api: LocalApi, another: Another) -> None:
    await another.enqueue("first")
    assert [step.after for step in (await api.session("first")).history] == [Status.PENDING]


async def test_a_session_that_does_not_exist_is_not_found(api: LocalApi, another: Another) -> None:
    for asked in (api.session, api.log, api.terminate):
        with pytest.raises(NotFound):
            await asked("nobody")


async def test_the_end_of_another_processes_session_is_written(
    api: LocalApi, another: Another
) -> None:
    await another.enqueue("first")
    await api.terminate("first")
    kernel = (await another.store.get("first", SYSTEM)).main
    assert (kernel.status, kernel.status_reason) == (
        Status.CANCELLED,
        "Its owner asked for its end.",
    )


async def test_the_log_of_an_ended_session_is_the_one_that_was_kept(
    api: LocalApi, another: Another
) -> None:
    await another.enqueue("first")
    ending = Exit(reason=ExitReason.STEP_FAILED, message="It failed.", log_tail="its last words")
    await another.store.move(
        "first", Status.ERROR, reason="It failed.", by="a1", now=2.0, exit=ending
    )
    assert await api.log("first") == await api.log("first", "main1") == "its last words"
    with pytest.raises(NotFound, match="no kernel sub1"):
        await api.log("first", "sub1")


async def test_the_log_of_a_session_whose_process_is_gone_is_empty(
    api: LocalApi, another: Another
) -> None:
    await another.enqueue("first")
    assert await api.log("first") == ""


def test_a_list_loads_nothing_that_a_server_needs_and_a_list_does_not(short_tmp_path: Path) -> None:
    """Their imports take longer than the list itself."""
    program = (
        "import sys\nfrom backendai_jupyter.cli.main import main\n"
        "sys.argv = ['jupyter-backendai', 'session', 'ls']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = 'aiodocker grpc jupyter_client jupyter_server nbclient psycopg redis tornado zmq'"
        "\nprint(sorted(set(heavy.split()) & set(sys.modules)))"
    )
    env = {**os.environ, "JUPYTER_DATA_DIR": str(short_tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True
    )
    assert said.stdout.splitlines()[-1] == "[]"
