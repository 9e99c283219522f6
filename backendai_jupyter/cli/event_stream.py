"""Follow a server's event stream; goes on where it was when the server has been away."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack

from pydantic import ValidationError

from backendai_jupyter.cli.server import Server
from backendai_jupyter.errors import BackendError, Unavailable
from backendai_jupyter.web.event_models import SessionEvent

_SILENCE_S = 40.0  # the server says something each 15
_PATIENCE_S = 60.0  # with a server that does not answer
_PAUSE_S = 1.0


async def follow(server: Server) -> AsyncIterator[SessionEvent | None]:
    """Yield every event of a session; None where the server only says that it is there.

    Raises ``Unavailable`` when it has not been there for a minute.
    """
    last_id, away_s = "", 0.0
    while True:
        try:
            async for seen, event in _connected(server, last_id):
                last_id, away_s = seen, 0.0
                yield event
        except Unavailable:
            if away_s >= _PATIENCE_S:
                raise
        away_s += _PAUSE_S
        await asyncio.sleep(_PAUSE_S)


async def _connected(
    server: Server, last_id: str
) -> AsyncIterator[tuple[str, SessionEvent | None]]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with ExitStack() as stack:
        request = server.request("GET", "events", headers=headers, timeout_s=_SILENCE_S)
        answer = await asyncio.to_thread(stack.enter_context, request)
        blocks = _blocks(_lines(server, answer))
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            last_id = block.get("id", last_id)
            yield last_id, _event(block)


def _lines(server: Server, answer: http.client.HTTPResponse) -> Iterator[str]:
    while line := server.read_line(answer):
        yield line.decode().rstrip("\r\n")


def _blocks(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each block; one that is only a comment has none."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields
            fields = {}


def _event(block: dict[str, str]) -> SessionEvent | None:
    if block.get("event") != "session":
        return None
    try:
        return SessionEvent.model_validate_json(block["data"])
    except (KeyError, ValidationError) as error:
        raise BackendError("The server's event was not understood.") from error
