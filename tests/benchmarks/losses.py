"""What a client misses when something breaks: ``python -m tests.benchmarks.losses``.

A kernel sends numbered pieces of output while its client's link vanishes, its page is loaded
again, or a process is killed; each line of the table says what the client session got.  The
stock Jupyter Server, with its limits of output lifted, goes through what it survives.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.channels import OURS, started
from tests.acceptance.kernel_client import KernelClient, Message, printed, relay_of
from tests.acceptance.links import LinkThatVanishes
from tests.benchmarks.relay import say
from tests.benchmarks.websocket import LIFT
from tests.server import RunningServer

AWAY_S = 3.0
WITHIN_S = 120.0
NUMBER = re.compile(r"<(\d+)>")
SENDS = "import sys\nfor n in range({count}):\n    print(f'<{{n}}>' + 'x' * {fill}, flush=True)\n"


@dataclass(frozen=True, slots=True)
class Load:
    """So many messages of so many bytes; ``mark`` is when the interruption comes."""

    name: str
    count: int
    fill_bytes: int

    @property
    def code(self) -> str:
        return SENDS.format(count=self.count, fill=self.fill_bytes)

    @property
    def mark(self) -> str:
        return f"<{self.count // 4}>"


LOADS = (Load("20,000 messages", 20_000, 8), Load("50 MB in 64 KB", 800, 65_500))


@dataclass
class Stage:
    """A kernel, its client behind a link, and another client that stays."""

    server: RunningServer
    kernel_id: str
    link: LinkThatVanishes
    stack: AsyncExitStack
    got: Counter[int] = field(default_factory=Counter)  # by the session that counts

    async def open(self, url: str = "", session: str = "") -> KernelClient:
        opening = KernelClient.open(
            url or self.server.url, self.server.token, self.kernel_id, session=session
        )
        return await self.stack.enter_async_context(opening)

    def count(self, messages: Sequence[Message]) -> None:
        self.got.update(int(number) for number in NUMBER.findall(printed([*messages])))


Interruption = Callable[[Stage, KernelClient, str], Awaitable[KernelClient]]


async def away() -> None:
    """Let time go by; how much is what is asked here."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AWAY_S):
            await asyncio.Event().wait()


async def nothing(stage: Stage, client: KernelClient, msg_id: str) -> KernelClient:
    return client


async def vanished_link(stage: Stage, client: KernelClient, msg_id: str) -> KernelClient:
    rest, _ = await asyncio.gather(client.rest(), stage.link.vanish())
    stage.count(rest)
    await away()
    return await stage.open(session=client.session)


async def reloaded_page(stage: Stage, client: KernelClient, msg_id: str) -> KernelClient:
    """A new session counts by itself: the page has forgotten what it had."""
    client.leave()
    await away()
    stage.got.clear()
    return await stage.open()


def ended_server(how: signal.Signals) -> Interruption:
    async def end(stage: Stage, client: KernelClient, msg_id: str) -> KernelClient:
        stage.server.signal(how)
        stage.count(await client.last())
        await stage.server.wait()
        await stage.server.start()
        return await stage.open(session=client.session)

    return end


async def killed_relay(stage: Stage, client: KernelClient, msg_id: str) -> KernelClient:
    relay_of(stage.server).kill()
    return client


INTERRUPTIONS: dict[str, Interruption] = {
    "nothing": nothing,
    "link vanishes for 3 s": vanished_link,
    "page is loaded again after 3 s": reloaded_page,
    "server stops, next one starts": ended_server(signal.SIGTERM),
    "server is killed, next one starts": ended_server(signal.SIGKILL),
    "relay is killed": killed_relay,
}
OF_STOCK = ("nothing", "link vanishes for 3 s", "page is loaded again after 3 s")


async def play(server: RunningServer, name: str, load: Load, *, watched: bool) -> Counter[int]:
    """Return how often each number came to the session that counts."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(LinkThatVanishes.to(server.url))
        kernel = OURS if server.env.get("STOCK") is None else "python3"
        stage = Stage(server, await started(server, name=kernel), link, stack)
        client = await stage.open(link.url if name.startswith("link") else "")
        watching = asyncio.create_task(_watch(await stage.open())) if watched else None
        msg_id = await client.execute(load.code)
        stage.count(await client.until(lambda m: load.mark in printed([m]), within_s=WITHIN_S))
        client = await INTERRUPTIONS[name](stage, client, msg_id)
        try:
            last = await client.until(lambda m: m.is_idle_of(msg_id), within_s=15)
        except TimeoutError:
            last = []  # stock: the end itself is lost
        stage.count(last)
        if watching is not None:
            watching.cancel()
        await server.delete(f"api/kernels/{stage.kernel_id}")
        return stage.got


async def _watch(client: KernelClient) -> None:
    while True:
        await client.next(within_s=WITHIN_S)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="process")
    arguments = parser.parse_args(sys.argv[1:])
    say("| server | interruption | load | sent | received | lost | doubled |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    config = f"c.BackendAIAgent.runtime = {arguments.runtime!r}\n"
    for ours in (True, False):
        root = Path(tempfile.mkdtemp(prefix="bj-"))
        server = RunningServer(
            root,
            config=config,
            args=() if ours else LIFT,
            env={} if ours else {"STOCK": "1"},
            enable=ours,
            kernels_outlive=ours,
        )
        async with server:
            for name in INTERRUPTIONS if ours else OF_STOCK:
                for load in LOADS:
                    for watched in (False, True) if name in OF_STOCK else (False,):
                        got = await play(server, name, load, watched=watched)
                        where = "ours" if ours else "stock, limits lifted"
                        what = f"{name}{', second client' if watched else ''}"
                        lost, doubled = load.count - len(got), got.total() - len(got)
                        say(
                            f"| {where} | {what} | {load.name} | {load.count} | {len(got)} "
                            f"| {lost} | {doubled} |"
                        )
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
