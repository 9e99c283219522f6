"""A PostgreSQL of the tests' own, and databases in it that are migrated already.

Nothing of the machine's own server is touched: this one has its data in a private directory
and listens on a free port of the loopback, as a user that is not root, with a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

from backendai_jupyter.store.migrate import upgrade
from backendai_jupyter.store.tables import metadata
from tests.certificates import Certificates, make_certificates
from tests.helpers import eventually
from tests.ports import free_port

TEMPLATE = "migrated"
USER = "backendai"
_READY_WITHIN_S = 30.0
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off")
_SOON = ("deadlock_timeout=50ms",)
_NUMBERS = itertools.count()

NewDatabase = Callable[[], str]
CleanDatabase = Callable[[], str]


class PrivatePostgres:
    """A server process of ours, ended by its id; the same port and data after a restart."""

    def __init__(self, *settings: str, tls: bool = False, root: Path | None = None) -> None:
        self.password = secrets.token_urlsafe(12)
        self.port = free_port()
        self.certificates: Certificates | None = None
        self._tls = tls
        self._settings = [*_FAST, *_SOON, *settings]
        self._bin = _find_programs()
        self._root = root or Path(tempfile.mkdtemp(prefix="bj-pg-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the database that each server has from the start."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Make the data directory."""
        _give_away(self._root)
        passwords = self._root / "password"
        passwords.write_text(self.password)
        passwords.chmod(0o644)  # the directory is private
        self._run("initdb", "-D", self._data, "-U", USER, f"--pwfile={passwords}",
                  "--auth=scram-sha-256", "--no-sync", "--no-locale", "-E", "UTF8")  # fmt: skip
        if self._tls:
            self.certificates = make_certificates(self._root)
            for path in self.certificates:
                _give_away(path)
            self._settings += [
                *("ssl=on", f"ssl_cert_file={self.certificates.cert}"),
                f"ssl_key_file={self.certificates.key}",
            ]
            (self._data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")

    async def start(self) -> None:
        """Return when the server answers; fails with its log if it never does."""
        options = [part for setting in self._settings for part in ("-c", setting)]
        listen = ("-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._root))
        command = [self._bin / "postgres", "-D", self._data, *listen, *options]
        with self._log.open("ab") as log:
            # However this process ends, its server ends too.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it waits for nothing
                ["setpriv", "--pdeathsig", "INT", *_as_user(), *map(str, command)],
                cwd=self._root,
                stdout=log,
                stderr=log,
            )
        try:
            await eventually(self.answers, within_s=_READY_WITHIN_S)
        except AssertionError:
            raise AssertionError(f"PostgreSQL did not start:\n{self.log}") from None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server; by default it ends its connections and closes its files."""
        assert self._process is not None
        family = self._family()
        if how is signal.SIGKILL:
            self._signal(how)
        else:
            self._process.send_signal(how)
        self._process.wait()
        await eventually(lambda: not psutil.wait_procs(family, timeout=0)[1])
        self._process = None

    def freeze(self) -> None:
        """Keep the server and all its connections from running at all."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signum: signal.Signals) -> None:
        """Send it to the server and its connections, any of which may end meanwhile."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def remove(self) -> None:
        """End the server, whatever state it is in, and leave nothing."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self._root, ignore_errors=True)

    def execute(self, statement: str) -> None:
        """Run one statement outside of a transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self, *, template: str = "template1") -> str:
        """Make a database and return its URL."""
        name = f"test_{next(_NUMBERS)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url_of(name)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def _data(self) -> Path:
        return self._root / "data"

    @property
    def _log(self) -> Path:
        return self._root / "log"

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None
        asked = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = ["setpriv", *_as_user(), str(self._bin / program), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self._root, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """A server that all tests share and no test harms."""
    with running() as server:
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(upgrade(server.url_of(TEMPLATE)))
        yield server


@pytest.fixture(scope="session")
def postgres_database(postgres: PrivatePostgres) -> NewDatabase:
    """Make a migrated database in the shared server and return its URL."""
    return lambda: postgres.new_database(template=TEMPLATE)


@pytest.fixture(scope="session")
def clean_postgres(postgres: PrivatePostgres) -> CleanDatabase:
    """Return the URL of one database, emptied: much quicker than a new one."""
    url = postgres.new_database(template=TEMPLATE)
    filled = [t.name for t in metadata.sorted_tables if t.name != "resource_presets"]

    def empty() -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {', '.join(filled)} RESTART IDENTITY".encode())
        return url

    return empty


@contextlib.contextmanager
def running(*settings: str, tls: bool = False) -> Iterator[PrivatePostgres]:
    """Start a server of one's own and leave nothing of it."""
    server = PrivatePostgres(*settings, tls=tls)
    try:
        server.make()
        asyncio.run(server.start())
        yield server
    finally:
        server.remove()


def _find_programs() -> Path:
    found = shutil.which("pg_ctl")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "postgres").exists():
            return place
    pytest.skip("PostgreSQL is not installed: apt-get install postgresql")


def _as_user() -> Sequence[str]:
    """Return how to become somebody who may run PostgreSQL: it refuses root."""
    if os.geteuid() != 0:
        return ()
    nobody = pwd.getpwnam("nobody")
    return (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
