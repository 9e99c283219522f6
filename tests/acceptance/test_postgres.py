"""A real Jupyter Server on a real PostgreSQL, which may go away and come back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nbformat
import psutil
import psycopg
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from backendai_jupyter.domain.records import SYSTEM, User
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.domain.states import Status
from backendai_jupyter.store.engine import Database
from backendai_jupyter.store.sessions import SessionStore
from backendai_jupyter.store.users import UserStore
from tests.acceptance.channels import OURS, Channels, started
from tests.helpers import eventually
from tests.postgres import PrivatePostgres, running
from tests.server import RunningServer
from tests.unit.store.samples import new_session

ONE = {"resources": {"cpu": 1, "mem": "256m"}}
COMMAND = str(Path(sys.executable).with_name("jupyter-backendai"))
EXECUTE = str(Path(sys.executable).with_name("jupyter-execute"))


@pytest.fixture(scope="module")
def own() -> Iterator[PrivatePostgres]:
    """A server that a test may harm; it speaks TLS only."""
    with running(tls=True) as server:
        yield server


class Site:
    """A Jupyter Server, its database, and the commands of an administrator."""

    def __init__(
        self, root: Path, postgres: PrivatePostgres, *, kernels_outlive: bool = False
    ) -> None:
        assert postgres.certificates is not None
        (root / "ca.pem").write_bytes(postgres.certificates.ca.read_bytes())
        self.url = postgres.new_database()
        verified = f"{self.url}?sslmode=verify-full&sslrootcert={root}/ca.pem"
        config = f"c.BackendAI.database_url = {verified!r}\nc.BackendAIAgent.runtime = 'process'\n"
        self.server = RunningServer(root, config=config, kernels_outlive=kernels_outlive)
        self.said: list[str] = []
        path = root / "config" / "jupyter_server_config.py"
        path.parent.mkdir(parents=True)
        path.write_text(config)

    async def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = await asyncio.to_thread(
            subprocess.run,
            arguments,
            env=self.server.env,
            cwd=self.server.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        return done

    async def session_of_another_machine(self) -> str:
        async with self._sessions() as (sessions, owner):
            new = new_session(owner=owner.id, slots=Slots(), cluster_id="elsewhere")
            return (await sessions.create(new, now=1.0)).id

    async def status_of(self, session_id: str) -> Status:
        async with self._sessions() as (sessions, _):
            return (await sessions.get(session_id, SYSTEM)).status

    @asynccontextmanager
    async def _sessions(self) -> AsyncIterator[tuple[SessionStore, User]]:
        database = await Database.open(self.url)
        try:
            yield SessionStore(database), await UserStore(database).ensure_owner(now=1.0)
        finally:
            await database.close()

    async def held_are(self, kernels: set[str]) -> None:
        """The ledger says that these kernels hold their slots, and nobody else any."""

        def right() -> bool:
            with psycopg.connect(self.url) as db:
                query = "SELECT DISTINCT kernel_id FROM allocations WHERE freed_at IS NULL"
                holders = {row[0] for row in db.execute(query)}
                counted = "SELECT sum(reserved + used) FROM agent_slots WHERE slot = 'cpu'"
                return holders == kernels and db.execute(counted).fetchone() == (
                    1000 * len(kernels),
                )

        await eventually(right, within_s=20)


async def runs(server: RunningServer, kernel_id: str, code: str) -> str:
    async with Channels.open(server, kernel_id) as channels:
        return (await asyncio.wait_for(channels.run(code), 20)).strip()


async def can_start(server: RunningServer) -> str:
    async def started_one() -> str:
        answer = await server.post("api/kernels", json={"name": OURS, "backendai": ONE})
        return str(answer.json()["id"]) if answer.status_code == 201 else ""

    return await eventually(started_one, within_s=40)


def is_in_ps(secret: str) -> bool:
    words = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return any(secret in word for line in words for word in line)


async def test_a_server_does_not_start_on_an_empty_database_and_says_what_to_do(
    short_tmp_path: Path, own: PrivatePostgres
) -> None:
    site = Site(short_tmp_path, own)
    with pytest.raises(AssertionError, match="run 'jupyter backendai schema upgrade'"):
        await site.server.start()
    assert "jupyter backendai schema upgrade" in (await site.command(COMMAND, "doctor")).stdout
    assert own.password not in "".join([site.server.log, *site.said])


async def test_notebooks_run_in_a_server_and_in_batch_and_nobody_hears_the_password(
    short_tmp_path: Path, own: PrivatePostgres
) -> None:
    site = Site(short_tmp_path, own)
    assert (await site.command(COMMAND, "schema", "upgrade")).returncode == 0
    elsewhere = await site.session_of_another_machine()
    async with site.server as server:
        kernel_id = await started(server, backendai=ONE)
        assert await runs(server, kernel_id, "print(1)") == "1"
        notebook = new_notebook(cells=[new_code_cell("print(6 * 7)")])
        nbformat.write(notebook, short_tmp_path / "nb.ipynb")
        done = await site.command(EXECUTE, f"--kernel_name={OURS}", "--inplace", "nb.ipynb")
        assert done.returncode == 0, done.stderr
        executed = nbformat.read(short_tmp_path / "nb.ipynb", as_version=4)
        assert executed.cells[0].outputs[0].text == "42\n"
        assert kernel_id in (await site.command(COMMAND, "session", "ls", "--json")).stdout
        assert "schema version" in (await site.command(COMMAND, "doctor")).stdout
        await site.held_are({kernel_id})
        assert not is_in_ps(own.password)
    await site.held_are(set())
    assert await site.status_of(elsewhere) is Status.PENDING
    assert own.password not in "".join([server.log, *site.said])


async def test_kernels_outlive_server_and_database_and_everything_goes_on_after_it(
    short_tmp_path: Path, own: PrivatePostgres
) -> None:
    site = Site(short_tmp_path, own, kernels_outlive=True)
    await site.command(COMMAND, "schema", "upgrade")
    async with site.server as server:
        kernel_id = await started(server, backendai=ONE)
        assert await runs(server, kernel_id, "x = 1; print(x)") == "1"
        server.signal(signal.SIGKILL)
        await server.wait()
        await server.start()
        async with Channels.open(server, kernel_id) as channels:
            assert await channels.run("print(x)") == "1\n"
            before = len(server.log)
            await own.stop(signal.SIGKILL)
            answer = await server.post("api/kernels", json={"name": OURS, "backendai": ONE})
            assert answer.status_code == 503, answer.text
            assert str(own.port) in answer.json()["message"]
            listed = await server.get("backendai/v1/sessions")
            assert listed.status_code == 503
            assert await channels.run("print(x)") == "1\n"
            ended = await site.command(COMMAND, "doctor")
            assert ended.returncode == 1
            assert "Traceback" not in server.log[before:]
            await own.start()
            assert await channels.run("print(x)") == "1\n"
        other = await can_start(server)
        await site.held_are({kernel_id, other})
        assert (await server.delete(f"api/kernels/{kernel_id}")).status_code == 204
        await site.held_are({other})
    assert own.password not in "".join([server.log, *site.said])


async def test_a_database_that_hangs_holds_up_no_kernel(
    short_tmp_path: Path, own: PrivatePostgres
) -> None:
    site = Site(short_tmp_path, own)
    await site.command(COMMAND, "schema", "upgrade")
    async with site.server as server:
        kernel_id = await started(server, backendai=ONE)
        async with Channels.open(server, kernel_id) as channels:
            await channels.run("x = 1")
            own.freeze()
            try:
                asked = time.monotonic()
                starting = asyncio.ensure_future(
                    server.post("api/kernels", json={"name": OURS, "backendai": ONE})
                )
                while not starting.done():
                    before = time.monotonic()
                    assert await channels.run("print(x)") == "1\n"
                    assert (await server.get("api/status")).status_code == 200
                    assert time.monotonic() - before < 5
                answer = await starting
                assert answer.status_code == 503, answer.text
                assert str(own.port) in answer.json()["message"]
                assert time.monotonic() - asked < 40
            finally:
                own.thaw()
        other = await can_start(server)
        await site.held_are({kernel_id, other})
