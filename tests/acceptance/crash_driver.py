"""A server without Jupyter: the backend that it embeds, told what to do by lines of JSON.

Usage: ``python -m tests.acceptance.crash_driver CONFIG serve|batch``, a JSON object of settings.
It begins as a Jupyter Server does, with the kernels of the one before it, or as a batch run,
and starts, restarts and ends kernels as its provisioner does.  Each line on stdin is
``{"id", "op", ...}`` and has one line on stdout for an answer, with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from traitlets.config import Config

from backendai_jupyter.domain.options import Options
from backendai_jupyter.domain.resources import Slots
from backendai_jupyter.errors import BackendError
from backendai_jupyter.manager.requests import Request
from backendai_jupyter.manager.survivors import survivors
from backendai_jupyter.provisioning.backend import Backend
from backendai_jupyter.supervisor import Supervisor

KERNELSPEC = Path(__file__).parents[2] / "kernelspecs" / "python" / "kernel.json"
SURVIVORS_TIMEOUT_S = 20.0
GONE_TIMEOUT_S = 30.0


class Driver:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._argv = tuple(json.loads(KERNELSPEC.read_text())["argv"])
        self._supervisor = Supervisor()
        self._survivors: list[str] = []

    async def run(self) -> None:
        """Serve until ``stop`` or the end of stdin."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await asyncio.to_thread(self._backend.start)
        found = survivors(self._manager, timeout_s=SURVIVORS_TIMEOUT_S)
        self._survivors = [s.session.id for s in await self._backend.call(found)]
        _say({"id": 0, "survivors": self._survivors})
        while (line := await reader.readline()) and (command := json.loads(line))["op"] != "stop":
            self._supervisor.task(command["op"], self._obey(command))
        await self._supervisor.close()
        await asyncio.to_thread(self._backend.stop)

    @property
    def _manager(self) -> Any:
        return self._backend.manager

    async def _obey(self, command: dict[str, Any]) -> None:
        number, op = command.pop("id"), command.pop("op")
        try:
            work = getattr(self, f"_{op}")(**command)
            _say({"id": number, "ok": await self._backend.call(work)})
        except BackendError as error:
            _say({"id": number, "error": type(error).__name__, "message": str(error)})
        except Exception:  # noqa: BLE001 - whatever it is, it is a defect, and the test is told
            _say({"id": number, "defect": traceback.format_exc()})

    async def _start(self, kernel: str) -> dict[str, Any]:
        request = Request(
            kernelspec="backendai-python",
            image="python",
            argv=self._argv,
            defaults=Options(resources=Slots({"cpu": 1, "mem": 1 << 30, "cuda.device": 1})),
            kernel_id=kernel,
        )
        await self._manager.sessions.enqueue(request, self._manager.viewer)
        return await self._until_running(kernel, 1)

    async def _restart(self, kernel: str) -> dict[str, Any]:
        sessions, viewer = self._manager.sessions, self._manager.viewer
        before = (await sessions.get(kernel, viewer)).main.generation
        generation = await sessions.restart(kernel, viewer, generation=before)
        return await self._until_running(kernel, generation)

    async def _until_running(self, kernel: str, generation: int) -> dict[str, Any]:
        waiting = self._manager.sessions.until_running(kernel, generation=generation)
        connection = await waiting
        return {"kernel": kernel, "connection": connection.model_dump()}

    async def _interrupt(self, kernel: str) -> None:
        await self._manager.sessions.signal(kernel, 2, self._manager.viewer)

    async def _terminate(self, kernel: str) -> None:
        sessions, viewer = self._manager.sessions, self._manager.viewer
        await sessions.terminate(kernel, viewer, reason="Its owner shut it down.")
        await sessions.until_gone(kernel, timeout_s=GONE_TIMEOUT_S)

    async def _kernels(self) -> list[dict[str, Any]]:
        """Return what is known of each kernel that this database has."""
        found = await self._manager.sessions.list(self._manager.viewer)
        return [self._told(session.main) for session in found]

    def _told(self, kernel: Any) -> dict[str, Any]:
        notice = self._manager.board.get(kernel.id)
        reachable = notice is not None and notice.running and notice.connection is not None
        return {
            "kernel": kernel.id,
            "status": kernel.status,
            "reason": kernel.status_reason,
            "generation": kernel.generation,
            "exit_code": None if notice is None else notice.exit_code,
            "connection": notice.connection.model_dump() if reachable else None,
        }


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    serving = sys.argv[2] == "serve"
    driver = Driver(Backend(Config(json.loads(sys.argv[1])), serving=serving))
    asyncio.run(driver.run())


if __name__ == "__main__":
    main()
