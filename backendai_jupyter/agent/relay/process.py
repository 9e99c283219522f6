"""The relay process: a control socket for agents, and the channels of many kernels.

An agent sends one JSON object per line and gets one back with the same ``id``: either
``"ok": true`` and the result, or ``error``, a sentence.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from backendai_jupyter.agent.relay.channels import KernelChannels
from backendai_jupyter.agent.relay.gateway import MAX_NEWCOMERS, Gateway
from backendai_jupyter.agent.relay.iopub import JournalPlace
from backendai_jupyter.agent.relay.layout import journal_socket
from backendai_jupyter.agent.relay.pace import Traffic
from backendai_jupyter.errors import RelayFailed
from backendai_jupyter.supervisor import Supervisor

PROTOCOL = 3  # raised when an older agent could no longer talk to this process
MAX_LINE_BYTES = 16 << 20

_OWNER_DEADLINE_S = 30.0  # an agent that dies just after it started us never says ``own``
_FILES_OF_KERNEL = 60
_FILES_OF_CLIENTS = 60 + MAX_NEWCOMERS  # that others need to reach their kernels
_DRAIN_S = 0.02  # for what is between a kernel's socket and its clients'

log = logging.getLogger(__name__)

Request = dict[str, Any]


class RelayProcess:
    """Serves until ``stop``.

    Without ``keep_orphans`` it ends when its owner is lost, or has not come within
    ``owner_deadline_s``; with it, when it has had neither owner nor kernels for that long.
    """

    def __init__(
        self,
        control: Path,
        *,
        keep_orphans: bool,
        owner_deadline_s: float = _OWNER_DEADLINE_S,
    ) -> None:
        self.orphaned = False
        self._control = control
        self._keep_orphans = keep_orphans
        self._owner_deadline_s = owner_deadline_s
        self._kernels: dict[str, KernelChannels] = {}
        self._traffic = Traffic()
        self._owner: asyncio.StreamWriter | None = None
        self._was_owned = False
        self._ended = asyncio.Event()
        self._supervisor = Supervisor()
        self._gateway = Gateway(control, self._supervisor)
        self._operations: dict[str, Callable[[Request], Awaitable[Request]]] = {
            "open": self._open,
            "close": self._close,
            "list": self._list,
            "notify": self._notify,
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, serve, and leave no kernel open."""
        for left_by_another in self._control.parent.glob(journal_socket(self._control, "*").name):
            left_by_another.unlink(missing_ok=True)
        former_umask = os.umask(0o177)  # the socket is never open to others, not even at first
        try:
            server = await asyncio.start_unix_server(
                self._serve, self._control, limit=MAX_LINE_BYTES
            )
        finally:
            os.umask(former_umask)
        if self._keep_orphans:
            self._supervisor.task("idle", self._end_when_useless())
        else:
            asyncio.get_running_loop().call_later(self._owner_deadline_s, self._check_owned)
        ready()
        await self._ended.wait()
        server.close()
        await self._gateway.close()
        self._control.unlink(missing_ok=True)
        closing = [self._close({"kernel_id": kernel_id}) for kernel_id in list(self._kernels)]
        await asyncio.gather(*closing)
        await self._supervisor.close()

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self._ended.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Each in a task, for closing takes a while.  It begins, and so acts, before the
            # next line is read, or the end of the connection noticed.
            while line := await reader.readline():
                self._supervisor.task("request", self._reply(line, writer))
                await asyncio.sleep(0)
        except (ConnectionError, ValueError):  # it left, or sent a line without an end
            log.warning("a control connection broke off")
        except asyncio.CancelledError:
            pass  # the process ends, and so does this task, which nobody awaits
        finally:
            if self._owner is writer:
                self._owner = None
                self._miss_owner()
            writer.close()

    async def _reply(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        answer = await self._answer(line, writer)
        if not writer.is_closing():
            writer.write(json.dumps(answer).encode() + b"\n")

    async def _end_when_useless(self) -> None:
        """End when no agent is there and none can find a kernel here any more."""
        while True:
            await asyncio.sleep(self._owner_deadline_s)
            if self._owner is None and not (self._kernels and self._control.exists()):
                log.warning("no agent has come back for kernels; the relay ends")
                self.stop()

    def _check_owned(self) -> None:
        if not self._was_owned:
            self._miss_owner()

    def _miss_owner(self) -> None:
        if not self._keep_orphans and not self._ended.is_set():
            log.warning("the agent has gone without a word; ending its kernels' channels")
            self.orphaned = True
            self._ended.set()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> Request:
        request: Request = {}
        try:
            request = json.loads(line)
            result = await self._perform(request, writer)
        except RelayFailed as error:
            return {"id": request.get("id"), "error": str(error)}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("malformed request: %s", type(error).__name__)
            request = request if isinstance(request, dict) else {}
            return {"id": request.get("id"), "error": "The relay does not understand the request."}
        except Exception:  # one request that fails must not end the others
            log.exception("request %s failed", request.get("op"))
            return {"id": request.get("id"), "error": "The relay failed; its log says why."}
        return {"id": request.get("id"), "ok": True, **result}

    async def _perform(self, request: Request, writer: asyncio.StreamWriter) -> Request:
        match request["op"]:
            case "own":  # the latest wins: an agent that hangs is replaced by its successor
                self._owner = writer
                self._was_owned = True
                return {"protocol": PROTOCOL, "pid": os.getpid()}
            case "detach":
                self._owner = None if self._owner is writer else self._owner
                return {}
            case "stop":
                self.stop()
                return {}
            case op:
                return await self._operations[op](request)

    async def _open(self, request: Request) -> Request:
        kernel_id, prefix, former = (
            request["kernel_id"],
            request["ipc_prefix"],
            request["endpoint"],
        )
        journal = journal_socket(self._control, kernel_id)
        port = self._gateway.listen(request["bind"])
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            _check_files()
            place = JournalPlace(Path(request["journal"]), int(request["journal_bytes"]), journal)
            kernel = KernelChannels(
                kernel_id,
                prefix,
                request["key"],
                request["bind"],
                place,
                self._traffic,
                former,
            )
            self._kernels[kernel_id] = kernel
        elif (kernel.key, kernel.bind) != (request["key"], request["bind"]):
            raise RelayFailed(
                f"Kernel {kernel_id} is open with another key or address; close it first."
            )
        elif kernel.ipc_prefix != prefix:
            kernel.move_to(prefix)
        token = self._gateway.admit(kernel_id, journal, former["journal_token"] if former else "")
        door = {
            "journal_port": port,
            "journal_token": token,
            "certificate": self._gateway.certificate,
        }
        return {**kernel.endpoint(), **door}

    async def _close(self, request: Request) -> Request:
        self._gateway.dismiss(request["kernel_id"])
        kernel = self._kernels.pop(request["kernel_id"], None)
        if kernel is not None:
            await asyncio.sleep(_DRAIN_S)
            await asyncio.to_thread(kernel.close)
        return {}

    async def _list(self, _request: Request) -> Request:
        return {"kernels": sorted(self._kernels)}

    async def _notify(self, request: Request) -> Request:
        kernel = self._kernels.get(request["kernel_id"])
        if kernel is None:
            raise RelayFailed(f"Kernel {request['kernel_id']} has no channels in this relay.")
        kernel.notify(request["text"], dead=request["dead"])
        return {}


def _check_files() -> None:
    """Refuse a kernel that would leave no file for the clients of those that are there.

    ZeroMQ ends the whole process where it finds no file for a socket that it makes.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(list(Path("/proc/self/fd").iterdir())) + _FILES_OF_KERNEL + _FILES_OF_CLIENTS > limit:
        raise RelayFailed(
            f"This node has as many kernels as its relay has files for: a process may open "
            f"{limit} (see 'ulimit -n'), and a kernel takes {_FILES_OF_KERNEL}. End a kernel, or "
            "raise that limit, end all kernels and start them again."
        )
