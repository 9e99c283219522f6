"""Find a Jupyter Server of ours that runs on this machine, and ask it over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from jupyter_core.paths import jupyter_runtime_dir
from pydantic import BaseModel, ValidationError

from backendai_jupyter.cli.local import LocalApi
from backendai_jupyter.errors import BackendError, Conflict, NotFound, Refused, Unavailable
from backendai_jupyter.web.dry_run import DryRun, NewSession
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.log_models import Log
from backendai_jupyter.web.models import (
    Agent,
    AgentChange,
    AgentList,
    Me,
    Problem,
    SessionDetail,
    SessionList,
)
from backendai_jupyter.web.session_filters import SessionFilter

_PROBE_TIMEOUT_S = 2.0
_TIMEOUT_S = 30.0
_DRY_RUN = {"dry_run": "true"}
_MEASURED = {"statistics": "true"}

# The errors that commands act on; of any other they only repeat the sentence.
_KINDS: Mapping[int, type[BackendError]] = {
    HTTPStatus.FORBIDDEN: Refused,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
}

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Server:
    """``sock`` is empty unless the server listens on a Unix socket."""

    url: str
    token: str = field(repr=False)
    sock: str = ""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Any = (),
        body: BaseModel | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> bytes:
        """Return the body of the answer; raises ``BackendError`` with the server's sentence."""

        def ask() -> bytes:
            content = None if body is None else body.model_dump_json(exclude_unset=True).encode()
            target = path_with(path, query)
            with self.request(method, target, body=content, timeout_s=timeout_s) as answer:
                return self.read(answer)

        return await asyncio.to_thread(ask)

    @contextmanager
    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: bytes | Iterable[bytes] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield an answer that is to be read; blocks.  Raises as ``ask`` does."""
        parts = urlsplit(self.url)
        connection = self._connection(timeout_s)
        address = f"{parts.path.rstrip('/')}/backendai/v1/{target}"
        ours = {"Authorization": f"token {self.token}", "Host": parts.netloc}
        try:
            with self._answering():
                connection.request(method, address, body=body, headers={**headers, **ours})
                answer = connection.getresponse()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise self._refusal(answer.status, self.read(answer))
            yield answer
        finally:
            connection.close()

    def read(self, answer: http.client.HTTPResponse, count: int | None = None) -> bytes:
        """Return what comes next of an answer; blocks."""
        with self._answering():
            return answer.read(count)

    def read_line(self, answer: http.client.HTTPResponse) -> bytes:
        """Return the next line of an answer, empty at its end; blocks."""
        with self._answering():
            return answer.readline()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"The Jupyter Server at {self.url} does not answer ({why})."
            ) from error

    def _refusal(self, status: int, body: bytes) -> BackendError:
        """Return the server's error with its own sentence, if it said one."""
        sentence = _sentence(body) or f"The server at {self.url} answered {status}."
        return _KINDS.get(status, BackendError)(sentence)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if self.sock:
            return _UnixConnection(self.sock, timeout_s)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, timeout=timeout_s)
        return http.client.HTTPConnection(parts.netloc, timeout=timeout_s)


class ServerApi:
    """An ``Api`` whose answers come from a running server.

    It knows the logs only of the kernels that it started itself; those of other processes
    of this machine are read ``beside`` it.
    """

    def __init__(self, server: Server, *, beside: LocalApi) -> None:
        self.server = self._server = server
        self._beside = beside

    async def sessions(self, wanted: SessionFilter) -> SessionList:
        query = wanted.model_dump(mode="json", exclude_defaults=True)
        return parsed(SessionList, await self._server.ask("GET", "sessions", query=query))

    async def session(self, session_id: str) -> SessionDetail:
        path = _path(session_id)
        return parsed(SessionDetail, await self._server.ask("GET", path, query=_MEASURED))

    async def create(self, new: NewSession) -> SessionDetail:
        """Ask for a session; returns before it has started."""
        return parsed(SessionDetail, await self._server.ask("POST", "sessions", body=new))

    async def try_out(self, new: NewSession) -> DryRun:
        """Say what would become of a session that is asked for now."""
        answer = await self._server.ask("POST", "sessions", query=_DRY_RUN, body=new)
        return parsed(DryRun, answer)

    async def log(self, session_id: str, host: str = "main1") -> str:
        path, query = f"{_path(session_id)}/logs", {"host": host}
        try:
            answer = parsed(Log, await self._server.ask("GET", path, query=query))
        except Conflict:  # another process runs it
            return await self._beside.log(session_id, host)
        return answer.log

    async def terminate(self, session_id: str) -> None:
        await self._server.ask("DELETE", _path(session_id))

    async def agents(self) -> AgentList:
        return parsed(AgentList, await self._server.ask("GET", "agents", query=_MEASURED))

    async def agent(self, agent_id: str) -> Agent:
        return parsed(Agent, await self._server.ask("GET", _agent_path(agent_id), query=_MEASURED))

    async def drain(self, agent_id: str, *, is_drained: bool) -> Agent:
        change = AgentChange(is_drained=is_drained)
        return parsed(Agent, await self._server.ask("PATCH", _agent_path(agent_id), body=change))

    async def images(self) -> ImageList:
        return parsed(ImageList, await self._server.ask("GET", "images"))


async def find_server() -> Server | None:
    """Return the running server with our extension that was started last, if there is one."""
    servers = await asyncio.to_thread(_listed, Path(jupyter_runtime_dir()))
    answers = await asyncio.gather(*(_is_ours(server) for server in servers))
    return next((s for s, ours in zip(servers, answers, strict=True) if ours), None)


def _listed(runtime_dir: Path) -> list[Server]:
    """Return the servers that have left a token here, the newest first.

    ``jupyter_server.serverapp`` can list them too, but takes a second to be imported.
    """
    newest = sorted(runtime_dir.glob("jpserver-*.json"), key=_changed_at, reverse=True)
    infos = (_info(path) for path in newest)
    return [
        Server(info["url"], info["token"], info.get("sock") or "")
        for info in infos
        if info is not None and info.get("token") and _is_alive(info.get("pid"))
    ]


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _info(path: Path) -> dict[str, Any] | None:
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError):  # it went away, or is being written
        return None
    return info if isinstance(info, dict) and isinstance(info.get("url"), str) else None


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


async def _is_ours(server: Server) -> bool:
    try:
        parsed(Me, await server.ask("GET", "me", timeout_s=_PROBE_TIMEOUT_S))
    except BackendError:
        return False
    return True


def parsed(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise BackendError(
            f"The server's answer was not understood ({error.errors()[0]['msg']}); "
            "is it of another version than this program?"
        ) from error


def path_with(path: str, query: Any) -> str:
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def _path(session_id: str) -> str:
    return f"sessions/{quote(session_id, safe='')}"


def _agent_path(agent_id: str) -> str:
    return f"agents/{quote(agent_id, safe='')}"


def _sentence(body: bytes) -> str:
    try:
        return Problem.model_validate_json(body).message
    except ValidationError:
        return ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
