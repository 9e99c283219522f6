"""Private etcd and Redis servers, which can be killed, stopped and started again.

They listen on free ports of this machine, keep their files in a directory of the test's and
die with the test run.  Nothing of the machine's own servers is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from redis import asyncio as aioredis

from backendai_jupyter.cluster.stores import check_redis
from backendai_jupyter.errors import Unavailable
from tests.certificates import Certificates
from tests.helpers import eventually
from tests.ports import free_port

READY_S = 20.0
LOOPBACK = "127.0.0.1"
PASSWORD = "s3cret/with:odd@letters"
PASSWORD_IN_URL = "s3cret%2Fwith%3Aodd%40letters"


class Service:
    """One server process; ``up`` brings it back whatever has been done to it."""

    def __init__(self, directory: Path, argv: Sequence[str]) -> None:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"there is no {argv[0]} here")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._argv],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """End it as whoever looks after it does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Make it hang until ``go_on``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Its threads go on until one of them has had its turn and taken note.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def up(self) -> None:
        """Return once it answers."""
        if self.is_running:
            self.go_on()
        else:
            self.start()
        await eventually(self._answers, within_s=READY_S)

    async def _answers(self) -> bool:
        raise NotImplementedError


class RedisServer(Service):
    def __init__(
        self,
        directory: Path,
        *,
        host: str = LOOPBACK,
        secured: Certificates | None = None,
        password: str = "",
    ) -> None:
        self.port = free_port()
        self._host = host
        self.socket = directory / "redis.sock"
        lines = ['save ""', f"unixsocket {self.socket}", f"bind {host}", "protected-mode no"]
        if secured is None:
            lines += [f"port {self.port}"]
            self._start_of_url, self._options = "redis://", ""
        else:
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients no"]
            lines += [f"tls-cert-file {secured.cert}", f"tls-key-file {secured.key}"]
            lines += [f"tls-ca-cert-file {secured.ca}"]
            self._start_of_url, self._options = "rediss://", f"&cacert={secured.ca}"
        if password:
            lines += ["user default off", f"user backend on >{password} ~* &* +@all"]
            self._start_of_url += f"backend:{PASSWORD_IN_URL}@"
        super().__init__(directory, ["redis-server", "redis.conf"])
        (directory / "redis.conf").write_text("\n".join(lines))

    def url(self, prefix: str = "test") -> str:
        start = f"{self._start_of_url}{self._host}:{self.port}/0"
        return f"{start}?prefix={prefix}{self._options}"

    async def command(self, *words: str) -> Any:
        """Say something to a server without password or TLS; return what it answers."""
        async with aioredis.Redis(port=self.port, decode_responses=True) as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def _answers(self) -> bool:
        with contextlib.suppress(Unavailable):
            return bool(await check_redis(self.url()))
        return False


class EtcdServer(Service):
    """One member of a cluster, by default the only one."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = LOOPBACK,
        name: str = "one",
        peers: dict[str, int] | None = None,
        secured: Certificates | None = None,
        login_ttl_s: int | None = None,
    ) -> None:
        self.port = free_port()
        peers = peers or {name: free_port()}
        self.endpoint = f"{host}:{self.port}"
        scheme, self._options = "http", ""
        self._verify: ssl.SSLContext | bool = False  # without TLS there is nothing to verify
        argv = ["etcd", "--name", name, "--data-dir", "data", "--log-level", "error"]
        argv += ["--logger", "zap", "--heartbeat-interval", "100", "--election-timeout", "1000"]
        if secured is not None:
            scheme, self._verify = "https", ssl.create_default_context(cafile=secured.ca)
            self._options = f"?cacert={secured.ca}"
            argv += ["--cert-file", str(secured.cert), "--key-file", str(secured.key)]
        self._base = f"{scheme}://{self.endpoint}"
        cluster = ",".join(f"{peer}=http://127.0.0.1:{port}" for peer, port in peers.items())
        argv += ["--listen-client-urls", self._base, "--advertise-client-urls", self._base]
        for option in ("listen-peer-urls", "initial-advertise-peer-urls"):
            argv += [f"--{option}", f"http://127.0.0.1:{peers[name]}"]
        argv += ["--initial-cluster", cluster]
        super().__init__(directory, argv)
        if login_ttl_s is not None:
            argv += ["--auth-token", _tokens(directory, login_ttl_s)]

    def url(self, prefix: str = "test", *, login: str = "") -> str:
        scheme = "etcds" if self._options else "etcd"
        return f"{scheme}://{login}{self.endpoint}/{prefix}{self._options}"

    async def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Call etcd's JSON gateway."""
        async with httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=5) as client:
            answer = await client.post(f"{self._base}/v3/{path}", json=body)
            answer.raise_for_status()
            return dict(answer.json())

    async def is_leader(self) -> bool:
        status = await self.ask("maintenance/status")
        return bool(status["leader"] == status["header"]["member_id"])

    async def require_password(self) -> None:
        await self.ask("auth/user/add", name="root", password=PASSWORD)
        await self.ask("auth/user/grant", user="root", role="root")
        await self.ask("auth/enable")

    async def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, KeyError):
            return bool((await self.ask("maintenance/status"))["leader"])
        return False


def _tokens(directory: Path, ttl_s: int) -> str:
    """Return the option for tokens that end; etcd's plain ones only end after five minutes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    private, public = directory / "token.key", directory / "token.pub"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={ttl_s}s"


def three_members(directory: Path, *, host: str = LOOPBACK) -> list[EtcdServer]:
    peers = {name: free_port() for name in ("one", "two", "three")}
    return [EtcdServer(directory / name, host=host, name=name, peers=peers) for name in peers]


def url_of(members: Sequence[EtcdServer]) -> str:
    """Return a URL that names all of them."""
    endpoints = [member.endpoint for member in members]
    return members[0].url().replace(endpoints[0], ",".join(endpoints))


class Wire:
    """A TCP forwarder between a client and a server that can be cut and joined again."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> int:
        """Return the port to connect to."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def join(self) -> None:
        self._is_cut = False

    def lead_to(self, server_port: int) -> None:
        """Connect whoever comes from now on to another server; those who are there stay."""
        self._server_port = server_port

    async def close(self) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        pair = {writer, far_writer}
        self._writers |= pair
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        self._writers -= pair


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
