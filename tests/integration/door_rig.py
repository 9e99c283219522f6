"""Ways to a journal as if it were on another machine, for tests of the relay's gateway."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backendai_jupyter.agent.relay.gateway import Gateway, identity_of
from backendai_jupyter.agent.relay.identity import ensure_identity
from backendai_jupyter.domain.wire import Connection, JournalDoor
from backendai_jupyter.supervisor import Supervisor

HOST = "127.0.0.1"
KERNEL = "k1"


def connection_to(path: Path, door: JournalDoor | None = None) -> Connection:
    """Return a kernel's connection of which only the journal can be used."""
    return Connection(
        ip=HOST,
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key="key",
        journal_socket=str(path),
        journal_door=door,
    )


@asynccontextmanager
async def gateway_to(path: Path) -> AsyncIterator[Connection]:
    """Run a gateway in this process that lets the journal at ``path`` be read."""
    supervisor = Supervisor()
    control = path.with_name("gateway")
    ensure_identity(identity_of(control))
    gateway = Gateway(control, supervisor)
    port = gateway.listen(HOST)
    token = gateway.admit(KERNEL, path, "")
    door = JournalDoor(
        place="another machine",
        host=HOST,
        port=port,
        certificate=gateway.certificate,
        token=token,
    )
    try:
        yield connection_to(path, door)
    finally:
        await gateway.close()
        await supervisor.close()


def elsewhere(connection: Connection, url: str = "", **changes: Any) -> Connection:
    """Return the connection as another machine sees it, which reaches the relay at ``url``."""
    assert connection.journal_door is not None
    fields: dict[str, Any] = {"place": "another machine"}
    if url:
        fields |= {"host": urlsplit(url).hostname, "port": urlsplit(url).port}
    door = connection.journal_door.model_copy(update=fields | changes)
    return connection.model_copy(update={"journal_door": door})


def door_of(connection: Connection) -> JournalDoor:
    assert connection.journal_door is not None
    return connection.journal_door


async def knock(
    connection: Connection, *lines: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Come by TLS and say ``lines``, of which the first should be the introduction."""
    door = door_of(connection)
    context = ssl.create_default_context(cadata=door.certificate)
    context.check_hostname = False
    reader, writer = await asyncio.open_connection(door.host, door.port, ssl=context)
    writer.write(b"".join(lines))
    return reader, writer
