"""One crash test, from the first kernel to what is left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

from backendai_jupyter.domain.states import FINAL
from tests.acceptance.crash_plans import PROGRAM, Blow, Plan
from tests.acceptance.crash_points import Points
from tests.acceptance.crash_remains import remains, remains_beside_server
from tests.acceptance.crash_rig import Server, ServerGone, ToldSo, pids_of
from tests.engine import PrivateEngine
from tests.helpers import eventually

REACHED_WITHIN_S = 20.0
SETTLED_WITHIN_S = 40.0
NOTHING_LEFT_WITHIN_S = 10.0
SET = "x = {kernel!r}"
ASK = "print(globals().get('x'))"


class Interleaving:
    """One plan, carried out with one kernel."""

    def __init__(
        self,
        plan: Plan,
        server: Server,
        points: Points,
        engine: PrivateEngine | None = None,
        *,
        is_batch_run: bool = False,
    ) -> None:
        self._plan = plan
        self._server = server
        self._points = points
        self._engine = engine
        self._is_batch_run = is_batch_run  # whose kernels end with it, however it ends
        self._kernel = str(uuid.uuid4())
        self._connections: list[dict[str, Any]] = []
        self._restarted: set[int] = set()  # generations that were started after a death

    async def play(self) -> str:
        """Carry it out, use what is there then, and return what the user saw."""
        plan, server = self._plan, self._server
        await self._begin()
        if plan.operation != "start":
            kernel = await server.ask("start", kernel=self._kernel)
            self._kernel = kernel["kernel"]
            await self._run(kernel, SET.format(kernel=self._kernel))
        self._points.arm(plan.point)
        asked = asyncio.ensure_future(self._operate())
        held = asyncio.ensure_future(self._points.until_held(within_s=REACHED_WITHIN_S))
        await asyncio.wait([asked, held], return_when=asyncio.FIRST_COMPLETED)
        if not (held.done() and held.result()):  # a phase may be too short to be seen
            held.cancel()
            self._points.release()
            await asked
            return "not reached"
        await self._strike()
        self._points.release()
        said = await asked
        if self._is_batch_run and plan.hits("server", by="kill"):
            await server.gone()
            return "ended with its run"
        await self._come_back()
        return await self._used(said)

    async def _operate(self) -> str:
        """Do what the plan says, as a user would, and return what he was told."""
        operation, server = self._plan.operation, self._server
        try:
            match operation:
                case "start":
                    kernel = await server.ask("start", kernel=self._kernel)
                    self._kernel = kernel["kernel"]
                    self._note(kernel)
                case "restart":
                    self._note(await server.ask("restart", kernel=self._kernel))
                case "shutdown":
                    await server.ask("terminate", kernel=self._kernel)
                case "interrupt":
                    await server.ask("interrupt", kernel=self._kernel)
                case "death":
                    for pid in pids_of(server.root, "kernel"):
                        with contextlib.suppress(ProcessLookupError):  # it went with the others
                            os.kill(pid, signal.SIGKILL)
                    await self._points.until_held(within_s=REACHED_WITHIN_S)
                case "stop":
                    await server.stop()
                case "recovery":
                    server.signal(signal.SIGKILL)
                    await server.gone()
                    await self._begin()
        except (ToldSo, ServerGone) as error:
            return f"{type(error).__name__} {error}".strip()
        return ""

    async def _strike(self) -> None:
        """Deal all blows while the point is held, then let everything go on in its time."""
        stopped = [self._deal(blow) for blow in self._plan.blows]
        if not any(blow.action == "hold" for blow in self._plan.blows):
            self._points.release()
        for blow, processes in zip(self._plan.blows, stopped, strict=True):
            if blow.action != "kill":
                until = time.monotonic() + blow.seconds
                await eventually(lambda until=until: time.monotonic() > until)  # type: ignore[misc]
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _deal(self, blow: Blow) -> list[int]:
        """Hit the victim; return the processes that were stopped."""
        if blow.action == "hold":
            return []
        match blow.victim:
            case "server":
                pids = [self._server.pid]
            case "dockerd":
                assert self._engine is not None
                pids = [self._engine.pid]
            case _:
                pids = pids_of(self._server.root, blow.victim)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if blow.action == "kill" else signal.SIGSTOP)
        return [] if blow.action == "kill" else pids

    async def _come_back(self) -> None:
        """Start the server again if it ended, perhaps to be killed while it starts."""
        server, plan = self._server, self._plan
        if plan.hits("dockerd", by="kill"):
            assert self._engine is not None
            self._engine.start_again()
        if plan.hits("server", by="kill"):
            await server.gone()
        if server.lives:
            return
        if plan.again:
            self._points.arm(plan.again)
            await server.begin()
            if await self._points.until_held(within_s=REACHED_WITHIN_S):
                server.signal(signal.SIGKILL)
                await server.gone()
            self._points.release()
        if not server.lives:
            await server.begin()
        await server.until_ready()

    async def _used(self, said: str) -> str:
        """Use the kernel that there is now, or its successor if its end is noticed only then."""
        kernel = await self._settled()
        if not self._kills_program:
            return await self._judge(said, kernel)
        try:
            return await self._judge(said, kernel)
        except (RuntimeError, TimeoutError):  # of jupyter_client: it has died
            return await self._judge(said, await self._settled())

    @property
    def _kills_program(self) -> bool:
        """Whether its death is due; an engine that comes back ends its containers."""
        return self._plan.operation == "death" or self._plan.hits(*PROGRAM, "dockerd", by="kill")

    async def _settled(self) -> dict[str, Any] | None:
        """Return what the kernel has become; None: it was never written down.

        One that died is started again, as jupyter_client's restarter does.
        """

        async def settled() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = await self._server.ask("kernels")
            for kernel in found:
                if kernel["status"] in FINAL or kernel["connection"]:
                    continue
                if kernel["status"] == "RESTARTING" and kernel.get("exit_code") is not None:
                    await self._restart(kernel)
                return []
            return found or [{}]

        (kernel,) = await eventually(settled, within_s=SETTLED_WITHIN_S)
        return kernel or None

    async def _restart(self, kernel: dict[str, Any]) -> None:
        if kernel["generation"] not in self._restarted:
            self._restarted.add(kernel["generation"])
            with contextlib.suppress(ToldSo):
                await self._server.ask("restart", kernel=kernel["kernel"])

    async def _judge(self, said: str, kernel: dict[str, Any] | None) -> str:
        plan = self._plan
        killed = self._kills_program
        if plan.only_delays:
            assert said == "", f"a delay became an error: {said}"
        if kernel is None:
            assert plan.operation == "start"
            assert said.startswith("ServerGone")
            return "never asked for"
        if kernel["status"] in FINAL:
            if plan.operation == "shutdown":
                return "went on"
            given_up = plan.operation == "start" and plan.hits("server", by="kill")
            assert killed or given_up, f"lost: {kernel}"
            assert kernel["reason"]
            assert not plan.only_delays, f"a delay became an end: {kernel}"
            return "told so" if said.startswith("ToldSo") or killed else "ended with its server"
        assert plan.operation != "shutdown" or said.startswith("ServerGone"), (said, kernel)
        has = await self._run(kernel, ASK) == f"{self._kernel}\n"
        if has:
            assert kernel["generation"] == 1
            return "went on"
        asked_for = plan.operation in ("start", "restart")
        assert killed or asked_for, f"its variables are gone: {kernel}"
        return "restarted" if self._restarted else "went on"

    async def _begin(self) -> None:
        await self._server.begin()
        await self._server.until_ready()

    async def _run(self, kernel: dict[str, Any], code: str) -> str:
        self._note(kernel)
        return await self._server.run(kernel, code)

    def _note(self, kernel: dict[str, Any]) -> None:
        """Remember which ports must be closed at the end."""
        self._connections.append(kernel.get("connection") or {})

    async def end(self) -> list[str]:
        """End the kernel and the server as users do; return what is left of them."""
        server, plan = self._server, self._plan
        before: list[str] = []
        if server.lives:
            for kernel in await server.ask("kernels"):
                if kernel["status"] not in FINAL:
                    await server.ask("terminate", kernel=kernel["kernel"])
            before = await _last_of(lambda: remains_beside_server(server.root))
            assert await server.stop() == 0
        elif plan.hits("relay", by="kill"):  # which would have become the reaper
            await self._begin()
            instances = server.root / "data" / "instances"
            await eventually(lambda: len([*instances.iterdir()]) == 1, within_s=SETTLED_WITHIN_S)
            assert await server.stop() == 0
        url = "" if self._engine is None else self._engine.url
        return before + await _last_of(lambda: remains(server.root, self._connections, url))


async def _last_of(look: Callable[[], list[str]]) -> list[str]:
    """Return what is seen when there is nothing any more, or when that takes too long."""
    until = time.monotonic() + NOTHING_LEFT_WITHIN_S
    await eventually(lambda: not look() or time.monotonic() > until, within_s=SETTLED_WITHIN_S)
    return look()
